//! How names are found: the host's servers where the sandbox can reach them, and a relay where they listen on the host's
//! loopback device alone.
//!
//! Owns the text of `/etc/resolv.conf` and the relay's sockets. It passes messages on and reads none of them.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// The host's files, in the order in which they are looked at: what systemd's resolver asks itself comes second, because
/// the first then names its loopback address.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// Bytes of such a file.
const LARGEST_FILE: u64 = 64 * 1024;
/// What is asked where the host says nothing: what Docker asks.
const PUBLIC: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4)),
];
const PORT: u16 = 53;
/// Bytes of a message over UDP.
const LARGEST_MESSAGE: usize = 65_535;
/// How long a server is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the relay looks whether it is still wanted.
const INTERVAL: Duration = Duration::from_millis(200);
/// Questions that are under way at the same time.
const MOST_QUESTIONS: usize = 256;

/// What the host knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct HostResolver {
    servers: Vec<IpAddr>,
    /// `search`, `options` and the like, as they stand.
    others: Vec<String>,
}

impl HostResolver {
    /// Reads the host's file: the first that names a server which is not the host's own.
    pub fn read() -> Self {
        let files: Vec<Self> = FILES
            .iter()
            .filter_map(|path| read_file(path))
            .map(|text| Self::parse(&text))
            .collect();
        let reachable = files
            .iter()
            .find(|file| file.servers.iter().any(|server| !server.is_loopback()));
        reachable.or(files.first()).cloned().unwrap_or_default()
    }

    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines().map(str::trim) {
            match line.split_once(char::is_whitespace) {
                Some(("nameserver", server)) => resolver.servers.extend(server.trim().parse::<IpAddr>().ok()),
                Some(("search" | "domain" | "options" | "sortlist", _)) => resolver.others.push(line.to_owned()),
                _ => {}
            }
        }
        resolver
    }

    /// The servers that are reached from elsewhere too; none where all listen on the loopback device.
    fn reachable(&self) -> Vec<IpAddr> {
        let servers = if self.servers.is_empty() {
            &PUBLIC
        } else {
            self.servers.as_slice()
        };
        // The sandbox has no IPv6.
        servers
            .iter()
            .filter(|server| !server.is_loopback() && server.is_ipv4())
            .copied()
            .collect()
    }

    /// The sandbox's file, with `relay` as the only server where no other can be reached.
    pub fn file(&self, relay: Option<Ipv4Addr>) -> String {
        let servers = match relay {
            Some(relay) => vec![IpAddr::V4(relay)],
            None => self.reachable(),
        };
        let servers = servers.iter().map(|server| format!("nameserver {server}\n"));
        servers
            .chain(self.others.iter().map(|line| format!("{line}\n")))
            .collect()
    }

    /// Starts a relay on `address` where it is needed.
    pub fn relay(&self, address: Ipv4Addr) -> io::Result<Option<Relay>> {
        match self.servers.first() {
            Some(server) if self.reachable().is_empty() => {
                Relay::start(address, SocketAddr::new(*server, PORT)).map(Some)
            }
            _ => Ok(None),
        }
    }
}

fn read_file(path: &str) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path)
        .ok()?
        .take(LARGEST_FILE)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

/// Passes questions on to one server, until it is dropped.
#[derive(Debug)]
pub(super) struct Relay {
    ended: Arc<AtomicBool>,
}

impl Relay {
    fn start(address: Ipv4Addr, server: SocketAddr) -> io::Result<Self> {
        let datagrams = UdpSocket::bind((address, PORT))?;
        let streams = TcpListener::bind((address, PORT))?;
        datagrams.set_read_timeout(Some(INTERVAL))?;
        streams.set_nonblocking(true)?;
        let ended = Arc::new(AtomicBool::new(false));
        let (until, also_until) = (Arc::clone(&ended), Arc::clone(&ended));
        let open = Arc::new(AtomicUsize::new(0));
        let also_open = Arc::clone(&open);
        std::thread::spawn(move || relay_datagrams(&datagrams, server, &until, &open));
        std::thread::spawn(move || relay_streams(&streams, server, &also_until, &also_open));
        Ok(Self { ended })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn relay_datagrams(socket: &UdpSocket, server: SocketAddr, ended: &AtomicBool, open: &Arc<AtomicUsize>) {
    let mut message = vec![0; LARGEST_MESSAGE];
    while !ended.load(Ordering::Relaxed) {
        let Ok((length, asker)) = socket.recv_from(&mut message) else {
            continue;
        };
        let (Ok(back), question) = (socket.try_clone(), message[..length].to_vec()) else {
            continue;
        };
        in_the_background(open, move || {
            let ask = || -> io::Result<()> {
                let towards = UdpSocket::bind(any_address(server))?;
                towards.connect(server)?;
                towards.set_read_timeout(Some(PATIENCE))?;
                towards.send(&question)?;
                let mut answer = vec![0; LARGEST_MESSAGE];
                let length = towards.recv(&mut answer)?;
                back.send_to(&answer[..length], asker).map(drop)
            };
            // Whoever asked asks again.
            let _ = ask();
        });
    }
}

fn any_address(server: SocketAddr) -> SocketAddr {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(any, 0)
}

fn relay_streams(listener: &TcpListener, server: SocketAddr, ended: &AtomicBool, open: &Arc<AtomicUsize>) {
    while !ended.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((asker, _)) => in_the_background(open, move || drop(relay_stream(asker, server))),
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}

/// One question and its answer, each led by its length (RFC 1035, 4.2.2), as often as they come.
fn relay_stream(mut asker: TcpStream, server: SocketAddr) -> io::Result<()> {
    asker.set_nonblocking(false)?;
    asker.set_read_timeout(Some(PATIENCE))?;
    let mut towards = TcpStream::connect_timeout(&server, PATIENCE)?;
    towards.set_read_timeout(Some(PATIENCE))?;
    loop {
        pass_message(&mut asker, &mut towards)?;
        pass_message(&mut towards, &mut asker)?;
    }
}

fn pass_message(from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
    let mut length = [0; 2];
    from.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    from.read_exact(&mut message)?;
    to.write_all(&[length.as_slice(), &message].concat())
}

/// Runs `work` on a thread, unless too many run already.
fn in_the_background(open: &Arc<AtomicUsize>, work: impl FnOnce() + Send + 'static) {
    if open.fetch_add(1, Ordering::Relaxed) >= MOST_QUESTIONS {
        open.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let open = Arc::clone(open);
    std::thread::spawn(move || {
        work();
        open.fetch_sub(1, Ordering::Relaxed);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_servers_are_not_a_sandboxs() {
        let far = HostResolver::parse("# x\nnameserver 10.0.0.53\nnameserver 127.0.0.53\nsearch example.test\n");
        assert_eq!(far.file(None), "nameserver 10.0.0.53\nsearch example.test\n");
        let near = HostResolver::parse("nameserver 127.0.0.53\noptions edns0\n");
        assert!(near.reachable().is_empty());
        assert_eq!(
            near.file(Some(Ipv4Addr::new(10, 213, 0, 1))),
            "nameserver 10.213.0.1\noptions edns0\n"
        );
        assert_eq!(
            HostResolver::parse("").file(None),
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
        );
    }

    #[test]
    fn questions_and_answers_pass() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = server.local_addr().unwrap();
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        front.set_read_timeout(Some(INTERVAL)).unwrap();
        let (address, ended, open) = (front.local_addr().unwrap(), AtomicBool::new(false), Arc::default());
        std::thread::scope(|scope| {
            scope.spawn(|| relay_datagrams(&front, target, &ended, &open));
            let asker = UdpSocket::bind("127.0.0.1:0").unwrap();
            asker.send_to(b"question", address).unwrap();
            let mut heard = [0; 64];
            let (length, from) = server.recv_from(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"question");
            server.send_to(b"answer", from).unwrap();
            let length = asker.recv(&mut heard).unwrap();
            assert_eq!(&heard[..length], b"answer");
            ended.store(true, Ordering::Relaxed);
        });
    }
}
