//! A socket whose writes wait for each other. HTTP/2 has two or three frames for a request, and h2 writes larger ones
//! each by a system call of its own; here everything goes out together when nothing more is to be said for now, as
//! clients that cost little do it.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    net::Ipv4Addr,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Beyond so many bytes nothing more is taken until some are gone.
const WAITING_MAX: usize = 1 << 20;

#[derive(Clone)]
pub struct Socket {
    stream: Rc<TcpStream>,
    waiting: Rc<RefCell<Vec<u8>>>,
}

impl Socket {
    pub async fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: Rc::new(stream), waiting: Rc::default() })
    }

    /// Drives what uses the socket, and sends what that has written.
    pub async fn drive<T>(self, user: impl Future<Output = T>) -> T {
        let mut user = pin!(user);
        poll_fn(|context| {
            let outcome = user.as_mut().poll(context);
            // A connection that broke shows to its reader.
            _ = self.send(context);
            outcome
        })
        .await
    }

    fn send(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut waiting = self.waiting.borrow_mut();
        while !waiting.is_empty() {
            match self.stream.try_write(&waiting) {
                Ok(sent) => drop(waiting.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_write_ready(context))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_read_ready(context))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.waiting.borrow().len() > WAITING_MAX {
            ready!(self.send(context))?;
        }
        self.waiting.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// It is sent when its user rests.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send(context)
    }
}
