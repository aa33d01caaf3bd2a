//! What other software leaves at the start and at the end of a device, told by its bytes.

/// A signature: where it is, what it is, whose it is.
type Signature = (usize, &'static [u8], &'static str);

/// Offsets from the start. The first that matches wins, so containers come before what they may
/// contain, and boot sectors after the file systems that have one.
const HEAD: &[Signature] = &[
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (512, b"LABELONE", "an LVM physical volume"),
    (0, b"LABELONE", "an LVM physical volume"),
    (536, b"LVM2 001", "an LVM physical volume"),
    (24, b"LVM2 001", "an LVM physical volume"),
    (0, MD_LITTLE, "an md RAID member"),
    (4096, MD_LITTLE, "an md RAID member"),
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (0x4000, b"SKUL\xba\xbe", "a LUKS volume"),
    (0, b"bluestore block device", "a Ceph OSD"),
    (0, b"XFSB", "an XFS file system"),
    (0x438, &[0x53, 0xef], "an ext2/3/4 file system"),
    (0x10040, b"_BHRfS_M", "a btrfs file system"),
    (1024, &[0x10, 0x20, 0xf5, 0xf2], "an F2FS file system"),
    (4120, BCACHEFS, "a bcachefs file system or bcache device"),
    (0x10034, b"ReIsEr", "a ReiserFS file system"),
    (0x8000, b"JFS1", "a JFS file system"),
    (0x406, &[0x34, 0x34], "a NILFS2 file system"),
    (0x10000, &[0x01, 0x16, 0x19, 0x70], "a GFS2 file system"),
    (0x2000, b"OCFSV2", "an OCFS2 file system"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4086, b"SWAP-SPACE", "swap space"),
    (0, b"hsqs", "a squashfs file system"),
    (0x8001, b"CD001", "an ISO 9660 file system"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (0x52, b"FAT32", "a FAT file system"),
    (0x36, b"FAT1", "a FAT file system"),
    (510, &[0x55, 0xaa], "a partition table or boot sector"),
];

/// Offsets back from the end.
const TAIL: &[Signature] = &[
    (512, b"EFI PART", "the backup of a GPT partition table"),
    (4096, b"EFI PART", "the backup of a GPT partition table"),
    (512, &[0xde, 0x11, 0xde, 0x11], "a DDF RAID member"),
    (1024, b"Intel Raid ISM Cfg Sig. ", "an Intel RAID member"),
    (8192, b"Intel Raid ISM Cfg Sig. ", "an Intel RAID member"),
];

const MD_LITTLE: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];
const BCACHEFS: &[u8] = &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca];

/// The known signature in the first or last bytes of a device of `bytes` bytes.
pub(super) fn known(head: &[u8], tail: &[u8], bytes: u64) -> Option<&'static str> {
    let at_head = |(at, magic, _): &&Signature| head.get(*at..at + magic.len()) == Some(*magic);
    if let Some((.., what)) = HEAD.iter().find(at_head) {
        return Some(what);
    }
    let from_end = |back: usize, magic: &[u8]| {
        let rest = tail.len().checked_sub(back).map(|start| &tail[start..]);
        rest.is_some_and(|rest| rest.starts_with(magic))
    };
    let at_tail = |(back, magic, _): &&Signature| from_end(*back, magic);
    if let Some((.., what)) = TAIL.iter().find(at_tail) {
        return Some(what);
    }
    let is_md = md_places(bytes)
        .iter()
        .any(|at| from_end((bytes - at) as usize, MD_LITTLE));
    if is_md {
        return Some("an md RAID member");
    }
    (uberblock(head) || uberblock(tail)).then_some("a ZFS pool member")
}

/// Where md keeps a superblock near the end: format 1.0, and format 0.90.
fn md_places(bytes: u64) -> Vec<u64> {
    let format_1_0 = bytes
        .checked_sub(8 << 10)
        .map(|at| at / (4 << 10) * (4 << 10));
    let reserved = 64 << 10;
    let format_0_90 = (bytes / reserved * reserved).checked_sub(reserved);
    format_1_0.into_iter().chain(format_0_90).collect()
}

/// ZFS labels, two at each end, hold arrays of uberblocks that begin at multiples of 1 KiB.
fn uberblock(bytes: &[u8]) -> bool {
    bytes.chunks_exact(1024).any(|block| {
        let magic = u64::from_le_bytes(block[..8].try_into().unwrap_or_default());
        magic == 0x00ba_b10c || magic.swap_bytes() == 0x00ba_b10c
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 64 << 20;
    const SAMPLE: usize = 1 << 20;

    #[test]
    fn every_signature_is_told_by_name_at_its_offset() {
        let blank = vec![0; SAMPLE];
        for (at, magic, what) in HEAD {
            let mut head = blank.clone();
            head[*at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(known(&head, &blank, BYTES), Some(*what));
            let cut = &head[..at + magic.len() - 1];
            assert_ne!(known(cut, &blank, BYTES), Some(*what), "a cut {what}");
        }
        for (back, magic, what) in TAIL {
            let mut tail = blank.clone();
            let at = SAMPLE - back;
            tail[at..at + magic.len()].copy_from_slice(magic);
            assert_eq!(known(&blank, &tail, BYTES), Some(*what));
        }
        assert_eq!(known(&blank, &blank, BYTES), None);
        assert_eq!(known(&[], &[], 0), None);
    }

    #[test]
    fn md_superblocks_near_the_end_are_found_whatever_the_size() {
        for bytes in [BYTES, BYTES + 512, BYTES + (60 << 10)] {
            for back in md_places(bytes).iter().map(|at| (bytes - at) as usize) {
                let mut tail = vec![0; SAMPLE];
                tail[SAMPLE - back..][..4].copy_from_slice(MD_LITTLE);
                assert_eq!(
                    known(&[], &tail, bytes),
                    Some("an md RAID member"),
                    "{back}"
                );
            }
        }
    }

    #[test]
    fn a_zfs_label_is_found_at_either_end_and_in_either_byte_order() {
        let blank = vec![0; SAMPLE];
        for magic in [0x00ba_b10c_u64.to_le_bytes(), 0x00ba_b10c_u64.to_be_bytes()] {
            let mut label = blank.clone();
            label[(640 << 10)..][..8].copy_from_slice(&magic);
            assert_eq!(known(&label, &blank, BYTES), Some("a ZFS pool member"));
            assert_eq!(known(&blank, &label, BYTES), Some("a ZFS pool member"));
        }
    }
}
