//! A socket that combines writes.
//!
//! An HTTP/2 request consists of two or three frames, and h2 writes each large frame with a
//! separate system call. This socket buffers all of them, and sends them together once h2 has
//! nothing more to write, as efficient clients do.

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

/// The number of buffered bytes above which writes wait until some have been sent.
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

    /// Polls `user`, which uses the socket, and then sends what it has written.
    pub async fn drive<T>(self, user: impl Future<Output = T>) -> T {
        let mut user = pin!(user);
        poll_fn(|context| {
            let outcome = user.as_mut().poll(context);
            // If the connection is broken, its reader gets the error.
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

    /// Does nothing: [`Socket::drive`] sends the data.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send(context)
    }
}
