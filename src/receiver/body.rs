//! A request's body: whole, under a cap, within its time, and copied at most once.

use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::Problem;

/// Bodies that come in several pieces are put together in a buffer; all such buffers together take
/// no more than this many KiB (or one body, if `body_bytes_max` is more). A registry's ordinary
/// event comes in one piece and takes no part in it.
const ASSEMBLY_KIB_MAX: u64 = 256 << 10;

/// Up to this size a body of one piece is copied out of the connection's read buffer, which has this
/// size at first (hyper's `INIT_BUFFER_SIZE`). The copy costs less than a new buffer for the next
/// request; and the newest events are kept in memory, where each would hold its whole buffer.
const COPIED_BYTES_MAX: usize = 8 << 10;

/// How much of a body that is too large is read and dropped, in multiples of the cap, so that its
/// sender reads the 413 rather than a reset connection.
const DROPPED_CAPS_MAX: u64 = 4;

pub struct BodyReader {
    bytes_max: u64,
    limit: Duration,
    assembly: Semaphore,
}

impl BodyReader {
    /// Bodies of at most `bytes_max` bytes, each complete within `limit`.
    pub fn new(bytes_max: u64, limit: Duration) -> Self {
        let permits = ASSEMBLY_KIB_MAX.max(kib(bytes_max)).min(Semaphore::MAX_PERMITS as u64);
        Self { bytes_max, limit, assembly: Semaphore::new(permits as usize) }
    }

    /// Reads a body. `declared` is its `Content-Length`; `expects` tells that the sender waits for
    /// a `100 Continue` before it sends anything.
    ///
    /// # Errors
    /// `BodyTooLarge`, `BodyTimeout` or `BodyBroken`.
    pub async fn read<B: Buf>(
        &self,
        body: impl Stream<Item = Result<B, warp::Error>>,
        declared: Option<u64>,
        expects: bool,
    ) -> Result<Bytes, Problem> {
        let mut body = pin!(body.map(|frame| {
            frame
                .map(|mut frame| frame.copy_to_bytes(frame.remaining()))
                .map_err(|error| Problem::BodyBroken(format!("the body broke off: {error}")))
        }));
        let too_large = declared.is_some_and(|bytes| bytes > self.bytes_max);
        if too_large && expects {
            // The sender has not begun: reading on would make it.
            return Err(self.too_large());
        }
        let read = async {
            if !too_large && let Some(whole) = self.assemble(body.as_mut(), declared).await? {
                return Ok(whole);
            }
            self.drop_rest(body.as_mut()).await;
            Err(self.too_large())
        };
        timeout(self.limit, read).await.unwrap_or(Err(Problem::BodyTimeout(self.limit)))
    }

    /// The body in one piece; `None` when it is over the cap.
    async fn assemble(
        &self,
        mut body: impl Stream<Item = Result<Bytes, Problem>> + Unpin,
        declared: Option<u64>,
    ) -> Result<Option<Bytes>, Problem> {
        let Some(first) = body.next().await.transpose()? else { return Ok(Some(Bytes::new())) };
        if first.len() as u64 > self.bytes_max {
            return Ok(None);
        }
        let Some(second) = body.next().await.transpose()? else { return Ok(Some(unpinned(first))) };
        let expected = declared.unwrap_or(self.bytes_max);
        let _room =
            self.assembly.acquire_many(kib(expected) as u32).await.map_err(|_| Problem::Unexpected)?;
        let mut whole = BytesMut::with_capacity(declared.unwrap_or_default() as usize);
        whole.extend_from_slice(&first);
        let mut next = Some(second);
        while let Some(piece) = next {
            if (whole.len() + piece.len()) as u64 > self.bytes_max {
                return Ok(None);
            }
            whole.extend_from_slice(&piece);
            next = body.next().await.transpose()?;
        }
        Ok(Some(whole.freeze()))
    }

    async fn drop_rest(&self, mut body: impl Stream<Item = Result<Bytes, Problem>> + Unpin) {
        let mut left = self.bytes_max.saturating_mul(DROPPED_CAPS_MAX);
        while let Some(Ok(piece)) = body.next().await {
            left = left.saturating_sub(piece.len() as u64);
            if left == 0 {
                break;
            }
        }
    }

    fn too_large(&self) -> Problem {
        Problem::BodyTooLarge { bytes_max: self.bytes_max }
    }
}

/// A body of one piece, which does not keep a read buffer much larger than itself.
fn unpinned(body: Bytes) -> Bytes {
    if body.len() > COPIED_BYTES_MAX { body } else { Bytes::copy_from_slice(&body) }
}

fn kib(bytes: u64) -> u64 {
    bytes.div_ceil(1024).min(u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use futures_util::stream::{self, pending};

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    fn pieces(pieces: &[&'static [u8]]) -> impl Stream<Item = Result<Bytes, warp::Error>> + use<> {
        stream::iter(pieces.iter().map(|piece| Ok(Bytes::from_static(piece))).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn puts_pieces_together() {
        let reader = BodyReader::new(6, LONG);
        let cases: [(&[&'static [u8]], Option<&str>); 6] = [
            (&[], Some("")),
            (&[b"abc"], Some("abc")),
            (&[b"ab", b"", b"cdef"], Some("abcdef")),
            (&[b"abcdef"], Some("abcdef")),
            (&[b"abcdefg"], None),
            (&[b"abc", b"def", b"g"], None),
        ];
        for (body, whole) in cases {
            // What was declared is only a size to begin with.
            for declared in [None, Some(0), Some(6)] {
                match (reader.read(pieces(body), declared, false).await, whole) {
                    (Ok(read), Some(whole)) => assert_eq!(read, whole),
                    (Err(Problem::BodyTooLarge { bytes_max: 6 }), None) => {}
                    (read, _) => panic!("{read:?} of {body:?}"),
                }
            }
        }
        let read = reader.read(pending::<Result<Bytes, _>>(), Some(7), true).await;
        assert!(matches!(read, Err(Problem::BodyTooLarge { .. })), "answered without waiting: {read:?}");
    }

    #[tokio::test]
    async fn only_large_bodies_stay_where_they_were_read() {
        let reader = BodyReader::new(1 << 20, LONG);
        for (bytes, stays) in [(COPIED_BYTES_MAX, false), (COPIED_BYTES_MAX + 1, true)] {
            let buffer = Bytes::from(vec![b'x'; bytes]);
            let body = stream::iter([Ok::<_, warp::Error>(buffer.clone())]);
            let read = reader.read(body, Some(bytes as u64), false).await.expect("whole");
            assert_eq!(read.as_ptr() == buffer.as_ptr(), stays);
        }
    }

    #[tokio::test]
    async fn bodies_in_pieces_share_a_bounded_room() {
        let all = ASSEMBLY_KIB_MAX << 10;
        let reader = BodyReader::new(all, SHORT);
        let unfinished = pieces(&[b"a", b"b"]).chain(pending());
        let mut first = pin!(reader.read(unfinished, Some(all), false));
        assert!(poll!(first.as_mut()).is_pending());
        {
            let second = pin!(reader.read(pieces(&[b"a", b"b"]), Some(2), false));
            assert!(poll!(second).is_pending(), "no room left");
        }
        let small = reader.read(pieces(&[b"a"]), Some(1), false).await;
        assert_eq!(small.expect("it needs no room"), "a");
        let first = first.await;
        assert!(matches!(first, Err(Problem::BodyTimeout(_))), "{first:?}");
        // Room is given back, by a body that came to nothing too.
        assert_eq!(reader.assembly.available_permits() as u64, ASSEMBLY_KIB_MAX);
        assert_eq!(reader.read(pieces(&[b"a", b"b"]), Some(all), false).await.expect("room"), "ab");
    }
}
