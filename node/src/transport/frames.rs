//! Length-prefixed frames on QUIC streams.

use bytes::BufMut as _;
use pageswarm_checkpoint::codec::FormatError;
use pageswarm_checkpoint::wire::FRAME_BYTES_MAX;
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, WriteError};
use tokio::io::AsyncReadExt as _;

/// Why a frame did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream or the connection ended.
    #[error("stream ended")]
    Read(#[from] ReadExactError),
    /// The stream or the connection cannot be written.
    #[error("stream cannot be written")]
    Write(#[from] WriteError),
    /// The frame is longer than any may be.
    #[error("frame of {length} bytes, the limit is {FRAME_BYTES_MAX}")]
    TooLong {
        /// Its stated length.
        length: usize,
    },
    /// The content is not a message.
    #[error("malformed message")]
    Format(#[from] FormatError),
}

/// Writes one frame: its length as four bytes, little end first, then the content.
///
/// # Errors
///
/// [`FrameError::Write`].
pub async fn write(stream: &mut SendStream, content: &[u8]) -> Result<(), FrameError> {
    stream.write_all(&prefixed(content)).await?;
    Ok(())
}

/// The frame as bytes.
#[must_use]
pub fn prefixed(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("messages are bounded far below 4 GiB");
    let mut frame = Vec::with_capacity(content.len() + 4);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(content);
    frame
}

/// Reads one frame; `None` where the stream ends between frames.
///
/// # Errors
///
/// [`FrameError`].
pub async fn read(stream: &mut RecvStream) -> Result<Option<Vec<u8>>, FrameError> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { length });
    }
    // In one go whatever has arrived: each look into the stream takes the connection's lock.
    let mut content = Vec::with_capacity(length);
    while content.len() < length {
        let left = length - content.len();
        match stream.read_buf(&mut (&mut content).limit(left)).await {
            Ok(0) => return Err(ReadExactError::FinishedEarly(content.len()).into()),
            Ok(_) => {}
            Err(error) => {
                let why = error.downcast().unwrap_or(ReadError::ClosedStream);
                return Err(ReadExactError::ReadError(why).into());
            }
        }
    }
    Ok(Some(content))
}
