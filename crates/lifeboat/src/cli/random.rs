//! Random bytes.

use anyhow::Context;

pub(crate) fn random() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("cannot get random bytes")?;
    anyhow::ensure!(filled == bytes.len(), "cannot get random bytes");
    Ok(bytes)
}
