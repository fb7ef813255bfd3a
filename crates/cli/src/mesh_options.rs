//! What a person may choose of the mesh, the same for every command that is or becomes an agent.

use agent::drivers::mesh::MeshSettings;

/// A network interface's name may have at most this many characters.
const INTERFACE_LIMIT: usize = 15;

#[derive(Debug, Clone, Default, clap::Args)]
pub struct MeshOptions {
    /// Take no part in the private network between servers
    #[arg(long, env = "MAINSTAY_NO_MESH", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_mesh: bool,
    /// UDP port of the private network between servers [default: 51820]
    #[arg(long, value_name = "PORT", env = "MAINSTAY_MESH_PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub mesh_port: Option<u16>,
    /// Name of its network interface [default: mainstay0]
    #[arg(long, value_name = "NAME", env = "MAINSTAY_MESH_INTERFACE", value_parser = parse_interface)]
    pub mesh_interface: Option<String>,
    /// Largest packet in it; less than 1420 where the way between servers takes less than 1500 [default: 1420]
    #[arg(long, value_name = "BYTES", env = "MAINSTAY_MESH_MTU", value_parser = clap::value_parser!(u16).range(576..=9000))]
    pub mesh_mtu: Option<u16>,
}

impl MeshOptions {
    pub fn settings(&self) -> MeshSettings {
        let usual = MeshSettings::default();
        MeshSettings {
            enabled: !self.no_mesh,
            interface: self.mesh_interface.clone().unwrap_or(usual.interface),
            port: self.mesh_port.unwrap_or(usual.port),
            mtu: self.mesh_mtu.unwrap_or(usual.mtu),
        }
    }

    /// For another process that is to do the same.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        arguments.extend(self.no_mesh.then(|| "--no-mesh".to_owned()));
        arguments.extend(self.mesh_port.map(|port| format!("--mesh-port={port}")));
        arguments.extend(self.mesh_interface.as_ref().map(|name| format!("--mesh-interface={name}")));
        arguments.extend(self.mesh_mtu.map(|bytes| format!("--mesh-mtu={bytes}")));
        arguments
    }
}

fn parse_interface(text: &str) -> Result<String, String> {
    let fits = (1..=INTERFACE_LIMIT).contains(&text.len());
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if fits && plain {
        Ok(text.to_owned())
    } else {
        Err(format!("an interface's name has 1 to {INTERFACE_LIMIT} letters, digits, `-` and `_`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        mesh: MeshOptions,
    }

    #[test]
    fn what_is_passed_on_means_the_same() {
        let words = ["x", "--no-mesh", "--mesh-port", "51900", "--mesh-interface", "wg-ms", "--mesh-mtu", "1380"];
        let given = Command::parse_from(words).mesh;
        let passed_on = Command::parse_from(["x".to_owned()].into_iter().chain(given.arguments())).mesh;
        assert_eq!(passed_on.settings(), given.settings());
        assert_eq!(given.settings().interface, "wg-ms");
        assert_eq!(MeshOptions::default().settings(), MeshSettings::default());
        assert_eq!(MeshOptions::default().arguments(), Vec::<String>::new());
    }

    #[test]
    fn a_name_that_no_interface_can_have_is_refused() {
        for bad in ["", "a-name-of-sixteen", "a/b", "a b", "é"] {
            assert!(parse_interface(bad).is_err(), "{bad:?}");
        }
    }
}
