use super::*;

fn sample() -> Superblock {
    Superblock {
        generation: 7,
        drive_uuid: [1; 16],
        store_uuid: [2; 16],
        store_key: [3; 32],
        member_idx: 1,
        member_count: 3,
        member_generation: 11,
        members_present: 5,
        epoch: 5,
        clean: true,
        created_ms: 1_700_000_000_000,
        geometry: Geometry::for_capacity(4 << 30),
        checkpoint: CheckpointPointer {
            area: 1,
            generation: 4,
            bytes: 8192,
            journal_page: 99,
            version: 1234,
            epoch: 3,
        },
        media_errors: 2,
        blacklisted: false,
        last_error_ms: 17,
    }
}

#[test]
fn superblock_survives_encoding() {
    let superblock = sample();
    assert_eq!(
        Superblock::decode(&superblock.encode()),
        Decoded::Valid(Box::new(superblock))
    );
}

#[test]
fn any_flipped_bit_is_noticed() {
    let page = sample().encode();
    for at in (0..240).chain([1000, 4095]) {
        let mut bad = page;
        bad[at] ^= 0x10;
        assert!(
            !matches!(Superblock::decode(&bad), Decoded::Valid(_)),
            "byte {at}"
        );
    }
}

#[test]
fn newer_format_is_told_by_its_version() {
    let mut page = sample().encode();
    set(&mut page, 8, &9u16.to_le_bytes());
    set(&mut page, CRC_AT, &[0; 4]);
    let crc = crc_of(&[], &[&page]);
    set(&mut page, CRC_AT, &crc.to_le_bytes());
    assert_eq!(Superblock::decode(&page), Decoded::Newer(9));
}

#[test]
fn highest_valid_generation_counts() {
    let old = sample();
    let new = Superblock {
        generation: 8,
        ..sample()
    };
    let copies = [
        Decoded::Corrupt,
        Superblock::decode(&old.encode()),
        Superblock::decode(&new.encode()),
        Decoded::Foreign,
    ];
    assert_eq!(Superblock::choose(&copies), Decoded::Valid(Box::new(new)));
    assert_eq!(
        Superblock::choose(&[Decoded::Corrupt, Decoded::Foreign]),
        Decoded::Corrupt
    );
    assert_eq!(Superblock::choose(&[Decoded::Foreign]), Decoded::Foreign);
}

#[test]
fn every_capacity_has_a_sound_geometry() {
    for shift in 24..46 {
        for odd in [0u64, 4095, 1_234_567] {
            let geometry = Geometry::for_capacity((1 << shift) + odd);
            assert!(geometry.sound(), "{geometry:?}");
            let last = geometry.segment_at(geometry.segment_count - 1);
            let end = last + Geometry::SEGMENT_HEADER + geometry.segment_data;
            assert!(end <= geometry.copies()[2], "{geometry:?}");
            assert!(geometry.segment_count >= 16, "{geometry:?}");
        }
    }
}
