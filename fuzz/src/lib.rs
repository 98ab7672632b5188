//! What the fuzz targets share.

use etcd_file::Scratch;

/// Temporary data in memory.
pub fn scratch() -> std::io::Result<Box<dyn Scratch>> {
    Ok(Box::new(Vec::<u8>::new()))
}

/// Gives both metas a right checksum, since no fuzzer finds one. The second is where pages of 1 KiB have it.
pub fn fix_checksums(file: &mut [u8]) {
    fix_checksum(file);
    if let Some(page) = file.get_mut(1024..) {
        fix_checksum(page);
    }
}

fn fix_checksum(page: &mut [u8]) {
    let Some(meta) = page.get_mut(16..80) else {
        return;
    };
    let checksum = meta[..56].iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    meta[56..].copy_from_slice(&checksum.to_le_bytes());
}
