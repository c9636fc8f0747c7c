//! The part of the PostgreSQL protocol that the benchmark needs: log in without a password, prepare
//! and execute statements, and count rows.

use std::net::Ipv4Addr;

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::outcome::Outcome;

const READ_BYTES: usize = 64 * 1024;
const PROTOCOL: u32 = 3 << 16;

pub struct Connection {
    socket: TcpStream,
    incoming: BytesMut,
    outgoing: Vec<u8>,
}

/// The results of the statements before a sync.
#[derive(Debug, Default)]
pub struct Answer {
    pub rows: u64,
    /// The first column of the last row.
    pub last: Bytes,
}

impl Connection {
    pub async fn open(port: u16, user: &str, database: &str) -> Outcome<Self> {
        let socket =
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| error.to_string())?;
        socket.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut connection = Self { socket, incoming: BytesMut::new(), outgoing: Vec::new() };
        let mut hello = PROTOCOL.to_be_bytes().to_vec();
        let settings = "search_path=message_store,public";
        for text in ["user", user, "database", database, "options", &format!("-c {settings}"), ""] {
            put_text(&mut hello, text);
        }
        let length = (hello.len() + 4) as u32;
        connection.outgoing.extend_from_slice(&length.to_be_bytes());
        connection.outgoing.extend_from_slice(&hello);
        connection.round().await?;
        Ok(connection)
    }

    /// Prepares a named statement, which exists as long as the connection.
    pub async fn prepare(&mut self, name: &str, statement: &str) -> Outcome<()> {
        self.put(b'P', |out| {
            put_text(out, name);
            put_text(out, statement);
            out.extend_from_slice(&0u16.to_be_bytes());
        });
        self.sync().await.map(drop)
    }

    /// Queues an execution for [`Connection::sync`]. All parameters are in text format.
    pub fn execute(&mut self, name: &str, parameters: &[&[u8]]) {
        self.put(b'B', |out| {
            put_text(out, "");
            put_text(out, name);
            out.extend_from_slice(&0u16.to_be_bytes());
            out.extend_from_slice(&(parameters.len() as u16).to_be_bytes());
            for parameter in parameters {
                out.extend_from_slice(&(parameter.len() as u32).to_be_bytes());
                out.extend_from_slice(parameter);
            }
            out.extend_from_slice(&0u16.to_be_bytes());
        });
        self.put(b'E', |out| {
            put_text(out, "");
            out.extend_from_slice(&0u32.to_be_bytes());
        });
    }

    /// Sends the queued executions, which are one transaction, and waits for its end.
    pub async fn sync(&mut self) -> Outcome<Answer> {
        self.put(b'S', |_| ());
        self.round().await
    }

    fn put(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.outgoing.len();
        self.outgoing.extend_from_slice(&[kind, 0, 0, 0, 0]);
        fill(&mut self.outgoing);
        let length = (self.outgoing.len() - start - 1) as u32;
        self.outgoing[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
    }

    async fn round(&mut self) -> Outcome<Answer> {
        self.socket.write_all(&self.outgoing).await.map_err(|error| error.to_string())?;
        self.outgoing.clear();
        let (mut answer, mut problem) = (Answer::default(), None);
        loop {
            let Some((kind, body)) = self.message() else {
                self.incoming.reserve(READ_BYTES);
                match self.socket.read_buf(&mut self.incoming).await {
                    Ok(1..) => continue,
                    _ => return Err(problem.unwrap_or_else(|| "connection closed".to_owned())),
                }
            };
            match kind {
                b'D' => {
                    answer.rows += 1;
                    answer.last = first_column(body);
                }
                b'E' => problem = Some(String::from_utf8_lossy(&body).replace('\0', " ")),
                b'Z' => return problem.map_or(Ok(answer), Err),
                b'R' if body.as_ref() != 0u32.to_be_bytes() => return Err("password required".to_owned()),
                _ => {}
            }
        }
    }

    fn message(&mut self) -> Option<(u8, Bytes)> {
        let kind = *self.incoming.first()?;
        let length = u32::from_be_bytes(self.incoming.get(1..5)?.try_into().ok()?) as usize;
        if self.incoming.len() < 1 + length {
            return None;
        }
        self.incoming.advance(5);
        Some((kind, self.incoming.split_to(length - 4).freeze()))
    }
}

/// Returns the first column of a row, which consists of the number of columns, and the length and
/// the bytes of each.
fn first_column(row: Bytes) -> Bytes {
    let length = row.get(2..6).and_then(|length| length.try_into().ok()).map_or(0, u32::from_be_bytes);
    let end = 6 + length as usize;
    if end <= row.len() { row.slice(6..end) } else { Bytes::new() }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}
