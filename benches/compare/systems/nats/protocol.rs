//! The part of the NATS text protocol that the benchmark needs: publish, subscribe, and receive
//! messages.

use std::{cell::RefCell, collections::HashMap, net::Ipv4Addr, rc::Rc};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{
        Notify,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    task::spawn_local,
};

use crate::outcome::Outcome;

const READ_BYTES: usize = 256 * 1024;

/// A message that a subscription received.
#[derive(Clone, Debug)]
pub struct Message {
    pub reply: Bytes,
    pub headers: Bytes,
    pub payload: Bytes,
}

impl Message {
    /// Returns the value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = std::str::from_utf8(&self.headers).ok()?;
        headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Returns the status code after `NATS/1.0`. Data messages have none.
    pub fn status(&self) -> Option<u32> {
        let line = self.headers.strip_prefix(b"NATS/1.0 ")?;
        std::str::from_utf8(line.get(..3)?).ok()?.parse().ok()
    }
}

/// A connection. Its clones share it.
#[derive(Clone)]
pub struct Connection {
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    outgoing: RefCell<Vec<u8>>,
    written: Notify,
    subscriptions: RefCell<HashMap<u64, UnboundedSender<Message>>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Only the reader and the writer are left then. The writer has to exit.
        if Rc::strong_count(&self.shared) <= 3 {
            self.shared.written.notify_one();
        }
    }
}

impl Connection {
    pub async fn open(port: u16) -> Outcome<Self> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(|e| e.to_string())?;
        socket.set_nodelay(true).map_err(|e| e.to_string())?;
        let (incoming, outgoing) = socket.into_split();
        let connection = Self { shared: Rc::new(Shared::default()) };
        connection.send(|out| {
            out.extend_from_slice(
                b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\
                  \"lang\":\"rust\",\"version\":\"1\",\"protocol\":1}\r\n",
            );
        });
        spawn_local(write(outgoing, connection.shared.clone()));
        spawn_local(read(incoming, connection.shared.clone()));
        Ok(connection)
    }

    /// Queues commands to be sent.
    pub fn send(&self, fill: impl FnOnce(&mut Vec<u8>)) {
        fill(&mut self.shared.outgoing.borrow_mut());
        self.shared.written.notify_one();
    }

    pub fn publish(&self, subject: &str, reply: &str, payload: &[u8]) {
        self.send(|out| {
            put_parts(out, &[b"PUB ", subject.as_bytes(), b" ", reply.as_bytes(), b" "]);
            put_parts(out, &[payload.len().to_string().as_bytes(), b"\r\n", payload, b"\r\n"]);
        });
    }

    pub fn subscribe(&self, subject: &str, id: u64) -> UnboundedReceiver<Message> {
        let (tx, rx) = unbounded_channel();
        self.shared.subscriptions.borrow_mut().insert(id, tx);
        self.send(|out| put_parts(out, &[format!("SUB {subject} {id}\r\n").as_bytes()]));
        rx
    }
}

pub fn put_parts(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

async fn write(mut socket: OwnedWriteHalf, shared: Rc<Shared>) {
    loop {
        let outgoing = shared.outgoing.take();
        if !outgoing.is_empty() {
            if socket.write_all(&outgoing).await.is_err() {
                return;
            }
            continue;
        }
        // Only the reader and the writer are left: the connection is no longer used.
        if Rc::strong_count(&shared) <= 2 {
            return;
        }
        shared.written.notified().await;
    }
}

async fn read(mut socket: OwnedReadHalf, shared: Rc<Shared>) {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        buffer.reserve(READ_BYTES);
        match socket.read_buf(&mut buffer).await {
            Ok(1..) => {}
            _ => break,
        }
        while let Some(()) = take(&mut buffer, &shared) {}
    }
    // Ends the wait of all subscriptions.
    shared.subscriptions.borrow_mut().clear();
}

/// Handles the next command in the buffer. Returns `None` if it is incomplete.
fn take(buffer: &mut BytesMut, shared: &Shared) -> Option<()> {
    let end = buffer.windows(2).position(|two| two == b"\r\n")?;
    let line = std::str::from_utf8(&buffer[..end]).unwrap_or_default();
    let words: Vec<&str> = line.split(' ').collect();
    let number = |word: &str| word.parse::<usize>().unwrap_or(0);
    let (headers, total) = match words.as_slice() {
        ["MSG", .., total] => (0, number(total)),
        ["HMSG", .., headers, total] => (number(headers), number(total)),
        other => {
            if other.first() == Some(&"PING") {
                shared.outgoing.borrow_mut().extend_from_slice(b"PONG\r\n");
                shared.written.notify_one();
            }
            buffer.advance(end + 2);
            return Some(());
        }
    };
    if buffer.len() < end + 2 + total + 2 {
        return None;
    }
    let id = number(words[2]) as u64;
    let has_reply = words.len() == if words[0] == "MSG" { 5 } else { 6 };
    let reply = if has_reply { Bytes::copy_from_slice(words[3].as_bytes()) } else { Bytes::new() };
    buffer.advance(end + 2);
    let mut payload = buffer.split_to(total).freeze();
    buffer.advance(2);
    let headers = payload.split_to(headers);
    if let Some(subscription) = shared.subscriptions.borrow().get(&id) {
        // The receiver may have been dropped.
        _ = subscription.send(Message { reply, headers, payload });
    }
    Some(())
}
