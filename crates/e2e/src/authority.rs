//! A certificate authority on this machine: Debian's `pebble`, which speaks ACME as the public ones do, with a
//! resolver of its own (`pebble-challtestsrv`) that sends it to whatever address a test wants.

use crate::free_port;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START_TIME: Duration = Duration::from_secs(20);

/// Ended when it is dropped.
pub struct Authority {
    folder: PathBuf,
    resolver: Child,
    pebble: Child,
    port: u16,
    management_port: u16,
    resolver_management_port: u16,
}

impl Authority {
    /// It looks for hosts on these ports of loopback. `None` where pebble is not installed.
    pub fn start(folder: &Path, http_port: u16, https_port: u16) -> Result<Option<Self>> {
        if !Path::new("/usr/bin/pebble").exists() || !Path::new("/usr/bin/pebble-challtestsrv").exists() {
            return Ok(None);
        }
        let folder = folder.join("authority");
        std::fs::create_dir_all(&folder)?;
        make_certificates(&folder)?;
        let [port, management_port, dns_port, resolver_management_port] = std::array::from_fn(|_| free_port());
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management_port}"),
            "certificate": folder.join("own.pem"), "privateKey": folder.join("own.key"),
            "httpPort": http_port, "tlsPort": https_port,
            "ocspResponderURL": "", "externalAccountBindingRequired": false,
        }});
        let config_file = folder.join("pebble.json");
        std::fs::write(&config_file, config.to_string())?;
        let resolver = start(
            &folder,
            Command::new("/usr/bin/pebble-challtestsrv")
                .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""])
                .args(["-dns01", &format!("127.0.0.1:{dns_port}")])
                .args(["-management", &format!("127.0.0.1:{resolver_management_port}")]),
            "resolver.log",
        )?;
        let pebble = start(
            &folder,
            Command::new("/usr/bin/pebble")
                .arg("-config")
                .arg(&config_file)
                .args(["-dnsserver", &format!("127.0.0.1:{dns_port}")])
                // Not waiting before it looks; refusing some nonces and forgetting some authorizations is its habit.
                .env("PEBBLE_VA_NOSLEEP", "1"),
            "pebble.log",
        )?;
        let authority = Self { folder, resolver, pebble, port, management_port, resolver_management_port };
        for port in [port, management_port, resolver_management_port] {
            authority.wait_for(port)?;
        }
        Ok(Some(authority))
    }

    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// File with the certificate by which its own HTTPS is trusted.
    pub fn root_file(&self) -> String {
        self.folder.join("root.pem").to_string_lossy().into_owned()
    }

    /// Certificates by which those that it gives are trusted.
    pub async fn issuing_root(&self) -> Result<reqwest::Certificate> {
        let url = format!("https://127.0.0.1:{}/roots/0", self.management_port);
        let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build()?;
        let pem = client.get(url).send().await?.error_for_status()?.bytes().await?;
        Ok(reqwest::Certificate::from_pem(&pem)?)
    }

    /// Where the authority finds a host from now on.
    pub async fn resolve(&self, host: &str, address: &str) -> Result<()> {
        let body = serde_json::json!({"host": format!("{host}."), "addresses": [address]}).to_string();
        for action in ["clear-a", "add-a"] {
            let url = format!("http://127.0.0.1:{}/{action}", self.resolver_management_port);
            reqwest::Client::new().post(url).body(body.clone()).send().await?.error_for_status()?;
        }
        Ok(())
    }

    /// What pebble has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("pebble.log")).unwrap_or_default()
    }

    fn wait_for(&self, port: u16) -> Result<()> {
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(begun.elapsed() < START_TIME, "nothing listens on {port}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("--- end of pebble.log");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        for process in [&mut self.pebble, &mut self.resolver] {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn start(folder: &Path, command: &mut Command, log: &str) -> Result<Child> {
    let output = std::fs::File::create(folder.join(log))?;
    let errors = output.try_clone()?;
    let child = command.current_dir(folder).stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
    child.with_context(|| format!("run {command:?}"))
}

/// A root, and a certificate of it for pebble's own address.
fn make_certificates(folder: &Path) -> Result<()> {
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")?;
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let root = ["req", "-x509", "-days", "2", "-subj", "/CN=root of pebble", "-keyout", "root.key", "-out", "root.pem"];
    openssl(folder, &[&root[..], &key[..]].concat())?;
    let request = ["req", "-subj", "/CN=localhost", "-keyout", "own.key", "-out", "own.csr"];
    openssl(folder, &[&request[..], &key[..]].concat())?;
    let sign = ["x509", "-req", "-in", "own.csr", "-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial"];
    openssl(folder, &[&sign[..], &["-days", "2", "-extfile", "names", "-out", "own.pem"]].concat())
}

/// A self-signed certificate of a user's own for a host: files `HOST.pem` and `HOST.key`.
pub fn make_own_certificate(folder: &Path, host: &str) -> Result<(String, String)> {
    let (certificate, key) = (folder.join(format!("{host}.pem")), folder.join(format!("{host}.key")));
    let (certificate, key) = (certificate.to_string_lossy().into_owned(), key.to_string_lossy().into_owned());
    let (subject, names) = (format!("/O=Own/CN={host}"), format!("subjectAltName=DNS:{host}"));
    // One that calls itself an authority is nothing that a visitor takes from a server.
    let leaf = "basicConstraints=critical,CA:FALSE";
    let request =
        ["req", "-x509", "-days", "30", "-subj", &subject, "-addext", &names, "-addext", leaf, "-keyout", &key, "-out"];
    let kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl(folder, &[&request[..], &[certificate.as_str()], &kind[..]].concat())?;
    Ok((certificate, key))
}

fn openssl(folder: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("openssl").current_dir(folder).args(arguments).output().context("run openssl")?;
    ensure!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
