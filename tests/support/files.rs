//! A web server inside the test process: files with tags and times, and what servers do when they are not well.
//!
//! One request a connection, one thread a connection. Everything that is asked of it is logged.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// A file that is served.
#[derive(Clone, Debug, Default)]
pub struct Served {
    pub body: Vec<u8>,
    pub etag: Option<&'static str>,
    pub last_modified: Option<&'static str>,
    /// The `Authorization` that it is given for; without it the answer is 401.
    pub guard: Option<&'static str>,
    /// Where it is instead.
    pub redirect: Option<String>,
    /// Bytes after which the connection is cut, the first time.
    pub cut: Option<usize>,
}

impl Served {
    pub fn new(body: impl AsRef<[u8]>) -> Self {
        Self {
            body: body.as_ref().to_vec(),
            ..Self::default()
        }
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub target: String,
    pub headers: HashMap<String, String>,
    /// What it was answered with.
    pub status: u16,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Served>,
    log: Vec<Asked>,
}

/// The server. Ends when dropped.
pub struct FileServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    closing: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl FileServer {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (state, closing) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let acceptor = std::thread::spawn({
            let (state, closing) = (state.clone(), closing.clone());
            move || {
                for stream in listener.incoming() {
                    if closing.load(Ordering::SeqCst) {
                        return;
                    }
                    let (state, stream) = (state.clone(), stream.unwrap());
                    // A client that goes away in the middle is no failure of the server.
                    std::thread::spawn(move || serve(stream, &state).ok());
                }
            }
        });
        Self {
            address,
            state,
            closing,
            acceptor: Some(acceptor),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn put(&self, path: &str, file: Served) -> String {
        self.state().files.insert(path.into(), file);
        self.url(path)
    }

    /// The requests for a path so far, and how each was answered.
    pub fn asked(&self, path: &str) -> Vec<Asked> {
        let log = self.state().log.clone();
        log.into_iter().filter(|asked| asked.target.starts_with(path)).collect()
    }

    pub fn statuses(&self, path: &str) -> Vec<u16> {
        self.asked(path).iter().map(|asked| asked.status).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // The acceptor waits for a connection: this is one.
        drop(TcpStream::connect(self.address));
        let _ = self.acceptor.take().unwrap().join();
    }
}

struct Request {
    method: String,
    target: String,
    headers: HashMap<String, String>,
}

fn read_request(stream: &TcpStream) -> std::io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (method, target) = (method.to_owned(), target.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    Ok(Request {
        method,
        target,
        headers,
    })
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let request = read_request(&stream)?;
    let path = request.target.split('?').next().unwrap_or_default().to_owned();
    let mut cut = None;
    let file = state.lock().unwrap().files.get_mut(&path).map(|file| {
        cut = file.cut.take();
        file.clone()
    });
    let (status, headers, body) = match file {
        Some(file) => answer(&file, &request),
        None => (404, String::new(), b"not here".to_vec()),
    };
    state.lock().unwrap().log.push(Asked {
        target: request.target.clone(),
        headers: request.headers.clone(),
        status,
    });
    write!(
        stream,
        "HTTP/1.1 {status} so\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    )?;
    if request.method != "HEAD" {
        stream.write_all(&body[..cut.unwrap_or(body.len()).min(body.len())])?;
    }
    stream.flush()
}

fn answer(file: &Served, request: &Request) -> (u16, String, Vec<u8>) {
    let asked = |name: &str| request.headers.get(name).map(String::as_str);
    if let Some(guard) = file.guard
        && asked("authorization") != Some(guard)
    {
        return (401, String::new(), Vec::new());
    }
    if let Some(elsewhere) = &file.redirect {
        return (302, format!("Location: {elsewhere}\r\n"), Vec::new());
    }
    let mut headers = String::new();
    for (name, value) in [("ETag", file.etag), ("Last-Modified", file.last_modified)] {
        if let Some(value) = value {
            headers += &format!("{name}: {value}\r\n");
        }
    }
    let unchanged = match asked("if-none-match") {
        Some(tag) => file.etag == Some(tag),
        None => asked("if-modified-since").is_some_and(|since| file.last_modified == Some(since)),
    };
    if unchanged {
        return (304, headers, Vec::new());
    }
    let begin = asked("range")
        .filter(|_| asked("if-range").is_none_or(|value| file.etag == Some(value) || file.last_modified == Some(value)))
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match begin {
        Some(begin) => {
            headers += &format!(
                "Content-Range: bytes {begin}-{}/{}\r\n",
                file.body.len() - 1,
                file.body.len()
            );
            (206, headers, file.body[begin..].to_vec())
        }
        None => (200, headers, file.body.clone()),
    }
}
