//! The link between two addresses of this network namespace, cut by packet filter rules: what is
//! cut silently is lost without a word, as behind a dead switch; what is refused gets a reset.
//! Not here: the namespace (`netns`).

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

/// The link between two nodes. Whatever else uses these addresses is not touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    a: IpAddr,
    b: IpAddr,
}

impl Link {
    /// The whole link between `a` and `b`.
    ///
    /// # Panics
    /// If packet filter rules cannot be made here (package nftables).
    pub fn new(a: IpAddr, b: IpAddr) -> Self {
        let link = Self { a, b };
        link.heal();
        link
    }

    /// Drops everything, silently.
    pub fn cut(&self) {
        self.rules(&[(self.a, self.b, "drop"), (self.b, self.a, "drop")]);
    }

    /// Drops what goes to `to`, silently; the other direction passes.
    pub fn cut_towards(&self, to: IpAddr) {
        assert!(to == self.a || to == self.b, "{to} is not an end of this link");
        let from = if to == self.a { self.b } else { self.a };
        self.rules(&[(from, to, "drop")]);
    }

    /// Answers everything with a reset: connections break at once, new ones are refused.
    pub fn refuse(&self) {
        // The resets themselves pass: they come from this end and look as if from the other.
        let refuse = "tcp flags & rst == 0 reject with tcp reset";
        self.rules(&[(self.a, self.b, refuse), (self.b, self.a, refuse)]);
    }

    /// Everything passes.
    pub fn heal(&self) {
        self.rules(&[]);
    }

    fn rules(&self, rules: &[(IpAddr, IpAddr, &str)]) {
        let mut text = "table inet chaos\ndelete table inet chaos\ntable inet chaos {\n\
                        chain arriving {\ntype filter hook input priority 0; policy accept;\n"
            .to_owned();
        for (from, to, verdict) in rules {
            text.push_str(&format!("ip saddr {from} ip daddr {to} {verdict}\n"));
        }
        text.push_str("}\n}\n");
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("nft (package nftables) can be started");
        let mut input = nft.stdin.take().expect("piped");
        input.write_all(text.as_bytes()).expect("nft reads");
        drop(input);
        assert!(nft.wait().expect("nft ends").success(), "nft refuses\n{text}");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use client::connection::dial;

    use super::*;
    use crate::chaos::netns::isolated;

    const LIMIT: Duration = Duration::from_secs(10);
    const SILENT: Duration = Duration::from_millis(300);

    fn ends() -> (Link, TcpListener, TcpStream, TcpStream) {
        let (a, b) = (IpAddr::from([127, 0, 0, 11]), IpAddr::from([127, 0, 0, 12]));
        let listener = TcpListener::bind(SocketAddr::new(b, 10810)).expect("free");
        let link = Link::new(a, b);
        let near = dial(SocketAddr::new(b, 10810), Some(a), LIMIT).expect("connected");
        let (far, _) = listener.accept().expect("accepted");
        far.set_read_timeout(Some(LIMIT)).expect("set");
        (link, listener, near, far)
    }

    fn arrives(mut from: &TcpStream, mut to: &TcpStream, limit: Duration) -> std::io::Result<()> {
        from.write_all(b"x")?;
        to.set_read_timeout(Some(limit))?;
        to.read_exact(&mut [0])
    }

    #[test]
    fn a_cut_is_silent_and_what_was_sent_comes_after_it() {
        isolated("chaos::link::tests::a_cut_is_silent_and_what_was_sent_comes_after_it", || {
            let (link, _listener, near, mut far) = ends();
            arrives(&near, &far, LIMIT).expect("passes");
            link.cut();
            let error = arrives(&near, &far, SILENT).expect_err("cut");
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            link.heal();
            far.set_read_timeout(Some(LIMIT)).expect("set");
            far.read_exact(&mut [0]).expect("sent again by the kernel");
        });
    }

    #[test]
    fn a_one_way_cut_lets_the_other_way_pass() {
        isolated("chaos::link::tests::a_one_way_cut_lets_the_other_way_pass", || {
            let (link, _listener, near, far) = ends();
            link.cut_towards(IpAddr::from([127, 0, 0, 12]));
            arrives(&far, &near, LIMIT).expect("passes");
            arrives(&near, &far, SILENT).expect_err("cut");
        });
    }

    #[test]
    fn a_refused_link_resets_connections_and_clients_are_not_touched() {
        let name =
            "chaos::link::tests::a_refused_link_resets_connections_and_clients_are_not_touched";
        isolated(name, || {
            let (link, listener, near, far) = ends();
            link.refuse();
            (&near).write_all(b"x").expect("taken by the kernel");
            let mut byte = [0];
            near.set_read_timeout(Some(LIMIT)).expect("set");
            let reset = (&near).read_exact(&mut byte).expect_err("reset");
            assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
            (&far).write_all(b"x").expect("taken by the kernel");
            let reset = (&far).read_exact(&mut byte).expect_err("reset");
            assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
            let (a, b) = (link.a, listener.local_addr().expect("bound"));
            dial(b, Some(a), LIMIT).expect_err("refused");
            let address = listener.local_addr().expect("bound");
            let client = dial(address, None, LIMIT).expect("not a node's address");
            let (server, _) = listener.accept().expect("accepted");
            arrives(&client, &server, LIMIT).expect("passes");
        });
    }
}
