//! Why nothing answers on the port, from where the process does listen.

use std::net::SocketAddr;

/// Words for a refused connection. `listening` are the addresses on which the instance's processes
/// really listen.
pub fn refused(wanted: SocketAddr, listening: &[SocketAddr]) -> String {
    let port = wanted.port();
    if let Some(elsewhere) = listening.iter().find(|address| address.port() == port) {
        let all = if wanted.ip().is_loopback() { "127.0.0.1 or 0.0.0.0" } else { "0.0.0.0" };
        return format!(
            "{wanted} refuses connections; the process listens on {elsewhere} only: let it listen on {all}"
        );
    }
    let mut ports: Vec<u16> = listening.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    match ports.as_slice() {
        [] => format!("nothing listens on {port}, and the process listens on no other port yet"),
        [other] => format!(
            "nothing listens on {port}; the process listens on {other}: let it read the PORT variable, or set `port = {other}`"
        ),
        many => {
            let list: Vec<String> = many.iter().take(8).map(u16::to_string).collect();
            format!(
                "nothing listens on {port}; the process listens on {}: let it read the PORT variable, or set `port` to the right one",
                list.join(", ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_port_says_where_the_process_listens_and_what_to_do() {
        let at = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let local = SocketAddr::from(([127, 0, 0, 1], 3000));
        let text = refused(local, &at(&["0.0.0.0:8080", "[::]:8080"]));
        assert!(text.starts_with("nothing listens on 3000; the process listens on 8080"), "{text}");
        assert!(text.contains("PORT") && text.contains("`port = 8080`"), "{text}");
        assert!(refused(local, &at(&["[::1]:3000"])).contains("[::1]:3000 only"));
        assert!(refused(local, &at(&["10.0.0.1:9", "10.0.0.1:8"])).contains("listens on 8, 9"));
        assert!(refused(local, &[]).contains("no other port yet"));
        let container = SocketAddr::from(([10, 200, 1, 5], 3000));
        let text = refused(container, &at(&["127.0.0.1:3000"]));
        assert!(text.ends_with("listens on 127.0.0.1:3000 only: let it listen on 0.0.0.0"), "{text}");
    }
}
