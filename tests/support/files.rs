//! A web server inside the test process: files with tags and times, git repositories over the smart protocol, and what
//! servers do when they are not well.
//!
//! One request a connection, one thread a connection. Everything that is asked of it is logged.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
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
    /// Where git repositories lie that are served below `/git/`, and the `Authorization` that they want.
    repositories: Option<(PathBuf, Option<&'static str>)>,
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

    /// Serves the bare repositories in a directory below `/git/`.
    pub fn serve_repositories(&self, directory: PathBuf, guard: Option<&'static str>) {
        self.state().repositories = Some((directory, guard));
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
    body: Vec<u8>,
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
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|value| value == "chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size)?;
            let size = u64::from_str_radix(size.trim(), 16).unwrap_or(0);
            (&mut reader).take(size).read_to_end(&mut body)?;
            reader.read_line(&mut String::new())?;
            if size == 0 {
                break;
            }
        }
    }
    let length = headers.get("content-length").and_then(|value| value.parse().ok());
    reader.take(length.unwrap_or(0)).read_to_end(&mut body)?;
    Ok(Request {
        method,
        target,
        headers,
        body,
    })
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let request = read_request(&stream)?;
    let path = request.target.split('?').next().unwrap_or_default().to_owned();
    let mut cut = None;
    let (file, repositories) = {
        let mut state = state.lock().unwrap();
        let found = state.files.get_mut(&path);
        let file = found.map(|file| {
            cut = file.cut.take();
            file.clone()
        });
        (file, state.repositories.clone())
    };
    let (status, headers, body) = match (file, path.strip_prefix("/git"), repositories) {
        (Some(file), _, _) => answer(&file, &request),
        (None, Some(path), Some((directory, guard))) => match guard {
            Some(guard) if request.headers.get("authorization").map(String::as_str) != Some(guard) => {
                (401, "WWW-Authenticate: Basic realm=\"x\"\r\n".to_owned(), Vec::new())
            }
            _ => git_backend(&directory, path, &request)?,
        },
        _ => (404, String::new(), b"not here".to_vec()),
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
        return (401, "WWW-Authenticate: Basic realm=\"x\"\r\n".to_owned(), Vec::new());
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

/// git-http-backend(1), as a web server runs it.
fn git_backend(directory: &PathBuf, path: &str, request: &Request) -> std::io::Result<(u16, String, Vec<u8>)> {
    let header = |name: &str| request.headers.get(name).map(String::as_str).unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", directory)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", path)
        .env(
            "QUERY_STRING",
            request.target.split_once('?').map_or("", |(_, query)| query),
        )
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().unwrap().write_all(&request.body)?;
    let output = child.wait_with_output()?.stdout;
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(0);
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let status = head
        .lines()
        .find_map(|line| line.strip_prefix("Status: ")?.get(..3)?.parse().ok());
    let headers: String = head
        .lines()
        .filter(|line| !line.starts_with("Status:"))
        .map(|line| format!("{line}\r\n"))
        .collect();
    Ok((
        status.unwrap_or(200),
        headers,
        output[(end + 4).min(output.len())..].to_vec(),
    ))
}
