use super::*;
use crate::api::Class;

const SEED: [u8; 16] = [5; 16];

fn row(key: &[u8]) -> Row {
    Row {
        op: RowOp::Extent,
        namespace: 1,
        attrs: Attrs {
            type_tag: 2,
            flags: 3,
            expiry_ms: 4,
            class: Class::Durable,
        },
        version: 5,
        segment: 6,
        offset: 7 * 4096,
        generation: 8,
        value_len: 9,
        crc: 10,
        part: 11,
        key: key.into(),
    }
}

#[test]
fn frame_survives_encoding() {
    let rows = vec![
        row(b"k"),
        row(&[7; 65_536]),
        Row::about_segment(RowOp::Free, 3, 4, 5),
        Row::about_segment(RowOp::Flushed, 0, 0, 12),
        Row {
            op: RowOp::Part,
            ..row(b"0123456789abcdef")
        },
    ];
    let frame = encode_frame(&SEED, 12, 3, &rows);
    let head = FrameHead::peek(&frame, 12).expect("a frame");
    assert_eq!(
        head,
        FrameHead {
            pages: (frame.len() / PAGE) as u32,
            epoch: 3
        }
    );
    assert_eq!(decode_frame(&SEED, &frame), Some(rows));
    assert_eq!(FrameHead::peek(&frame, 13), None, "another page's frame");
}

#[test]
fn torn_frame_is_no_frame() {
    let frame = encode_frame(&SEED, 0, 1, &[row(b"key"), row(&[1; 9000])]);
    for at in (0..frame.len()).step_by(97) {
        let mut bad = frame.clone();
        bad[at] ^= 1;
        assert_eq!(decode_frame(&SEED, &bad), None, "byte {at}");
    }
    assert_eq!(decode_frame(&[6; 16], &frame), None, "another drive");
}

#[test]
fn frames_never_cross_the_ring_end_nor_reach_the_tail() {
    let mut ring = Ring {
        pages: 10,
        tail: 0,
        head: 8,
    };
    assert_eq!(ring.place(2), Some(8));
    assert_eq!(ring.place(3), None, "pages 10 to 12 would overwrite page 0");
    ring.tail = 3;
    assert_eq!(ring.place(3), Some(10));
    assert_eq!(ring.place(4), None);
}
