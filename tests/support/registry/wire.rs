//! Requests and answers as they come and go: as much of HTTP/1.1 as a client needs, and the lies that are told there.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Answer, Lie, Request, State, personality, take_lie, tls};

/// Answers one request.
pub(super) fn serve(
    stream: &mut (impl Read + Write),
    state: &Mutex<State>,
    address: SocketAddr,
    closing: &AtomicBool,
) -> std::io::Result<()> {
    // One request a connection: what is buffered belongs to it.
    let mut reader = BufReader::new(&mut *stream);
    let request = read_head(&mut reader)?;
    // A tunnel through the proxy leads to the registry itself, over TLS.
    if request.method == "CONNECT" && !state.lock().unwrap().is_to_lie(&request) {
        state.lock().unwrap().log.push(request);
        stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
        let mut inner = tls::accept(tls::configuration(), stream);
        let mut reader = BufReader::new(&mut inner);
        let request = read_head(&mut reader)?;
        return respond(reader, request, state, address, closing);
    }
    respond(reader, request, state, address, closing)
}

fn respond<S: Read + Write>(
    mut reader: BufReader<&mut S>,
    mut request: Request,
    state: &Mutex<State>,
    address: SocketAddr,
    closing: &AtomicBool,
) -> std::io::Result<()> {
    let lie = take_lie(&mut state.lock().unwrap(), &request);
    let most = match lie {
        Some(Lie::CutRequest(most)) => most,
        _ => usize::MAX,
    };
    request.body = read_body(&mut reader, &request, most)?;
    state.lock().unwrap().log.push(request.clone());
    if let Some(Lie::CutRequest(_)) = lie {
        request.headers.remove("content-range");
        request.method = "PATCH".into();
        personality::answer(&mut state.lock().unwrap(), &request, address);
        return Ok(());
    }
    let mut answer = match &lie {
        Some(Lie::Slam) => return Ok(()),
        Some(Lie::Lost) => {
            personality::answer(&mut state.lock().unwrap(), &request, address);
            return Ok(());
        }
        Some(Lie::Answer(status, headers, body)) => {
            let answer = headers
                .iter()
                .fold(Answer::new(*status), |answer, (name, value)| answer.with(name, value));
            Answer {
                body: body.clone(),
                ..answer
            }
        }
        lie => {
            if matches!(lie, Some(Lie::WholeInstead)) {
                request.headers.remove("range");
            }
            personality::answer(&mut state.lock().unwrap(), &request, address)
        }
    };
    match &lie {
        Some(Lie::Header(name, Some(value))) => answer = answer.with(name, value),
        Some(Lie::Header(name, None)) => _ = answer.headers.remove(*name),
        Some(Lie::Body(body)) => answer.body = body.clone(),
        _ => {}
    }
    if !matches!(lie, Some(Lie::Slow(..))) {
        return write(*reader.get_mut(), &request, answer, lie.as_ref(), closing);
    }
    {
        let mut state = state.lock().unwrap();
        state.giving += 1;
        state.most_giving = state.most_giving.max(state.giving);
    }
    let written = write(*reader.get_mut(), &request, answer, lie.as_ref(), closing);
    state.lock().unwrap().giving -= 1;
    written
}

fn read_head(reader: &mut impl BufRead) -> std::io::Result<Request> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(std::io::ErrorKind::InvalidData.into());
    };
    let (method, mut target) = (method.to_owned(), target.to_owned());
    let mut headers = HashMap::new();
    // What a proxy is asked begins with the server that is meant.
    if let Some((server, path)) = target.strip_prefix("http://").and_then(|rest| rest.split_once('/')) {
        headers.insert("asked-for".to_owned(), server.to_owned());
        target = format!("/{path}");
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(Request {
        method,
        target,
        headers,
        body: Vec::new(),
    })
}

/// The body, whole or in chunks (RFC 9112 section 7.1), or as much of it as is wanted.
fn read_body(reader: &mut impl BufRead, request: &Request, most: usize) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let length = |request: &Request| {
        request
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap())
    };
    if request.header("transfer-encoding") != Some("chunked") {
        body.resize(most.min(length(request)), 0);
        reader.read_exact(&mut body)?;
        return Ok(body);
    }
    while body.len() < most {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Ok(length) = usize::from_str_radix(line.trim(), 16) else {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        };
        let start = body.len();
        body.resize(start + length, 0);
        reader.read_exact(&mut body[start..])?;
        reader.read_line(&mut line)?;
        if length == 0 {
            break;
        }
    }
    body.truncate(most);
    Ok(body)
}

fn write(
    stream: &mut impl Write,
    request: &Request,
    mut answer: Answer,
    lie: Option<&Lie>,
    closing: &AtomicBool,
) -> std::io::Result<()> {
    let length = answer.body.len().to_string();
    if !answer.headers.contains_key("Transfer-Encoding") {
        answer.headers.entry("Content-Length".into()).or_insert(length);
    }
    let mut head = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    match lie {
        Some(Lie::Cut(length)) => stream.write_all(&answer.body[..*length]),
        Some(Lie::Drip(pause)) => {
            for byte in &answer.body {
                if closing.load(Ordering::SeqCst) {
                    break;
                }
                stream.write_all(&[*byte])?;
                std::thread::sleep(*pause);
            }
            Ok(())
        }
        Some(Lie::Slow(length, pause)) => answer.body.chunks(*length).try_for_each(|piece| {
            stream.write_all(piece)?;
            std::thread::sleep(*pause);
            Ok(())
        }),
        _ => stream.write_all(&answer.body),
    }
}
