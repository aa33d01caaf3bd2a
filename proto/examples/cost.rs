//! Prints what the protocol costs: `cargo run --release -p memkv-proto --example cost`.

use std::hint::black_box;
use std::time::Instant;

use memkv_proto::mac::{FrameMac, HmacSha256};
use memkv_proto::op::OpCode;
use memkv_proto::request::{self, Request};
use memkv_proto::session::{
    AuthKey, ClientHandshake, Features, KeyRing, ServerHandshake, ServerIdentity,
};

/// The best of 20 rounds, in ns per call.
fn time(name: &str, calls: u32, mut call: impl FnMut()) {
    let round = |_| {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        start.elapsed().as_nanos() as f64 / f64::from(calls)
    };
    let best = (0..20).map(round).fold(f64::INFINITY, f64::min);
    println!("{name:<48} {best:>10.0} ns");
}

fn main() {
    let key = AuthKey::new([1; 32]);
    let ring = KeyRing::new(key.clone(), None);
    let identity = ServerIdentity {
        node_id: "server",
        features: Features::default(),
    };
    let shake = || {
        let (client, hello) =
            ClientHandshake::<HmacSha256>::start(&key, "c", Features::default(), 0, [2; 32])
                .expect("a short node identity");
        let (reply, server) =
            ServerHandshake::<HmacSha256>::on_hello(&hello, &ring, &identity, 0, [3; 32])
                .expect("an honest hello");
        let (finish, client, _) = client.on_hello_reply(&reply, 0).expect("an honest reply");
        (
            client,
            server.on_finish(&finish, 0).expect("an honest finish"),
        )
    };
    time("handshake, both sides", 500, || drop(black_box(shake())));

    let mac = HmacSha256::new(&[5; 32]);
    time("HMAC-SHA256 of 100 bytes", 20_000, || {
        black_box(mac.tag(&[black_box(&[6; 100])]));
    });

    let (mut client, mut server) = shake();
    let keys: Vec<Vec<u8>> = (0..512)
        .map(|i| format!("prefix/model/{i:020}").into_bytes())
        .collect();
    let mut control = Vec::new();
    for (name, count) in [
        ("get of 1 key, seal to decode", 1),
        ("exists of 512, seal to decode", 512),
    ] {
        let op = if count == 1 {
            OpCode::Get
        } else {
            OpCode::Exists
        };
        time(name, 20_000 / count as u32, || {
            control.clear();
            let borrowed = keys[..count].iter().map(Vec::as_slice);
            let head = request::encode_keys(&mut control, op, None, 0, borrowed)
                .expect("short keys")
                .with_request_id(1);
            let header = client.sealer.seal(&head, &control);
            let head = server.opener.open(&header).expect("an honest header");
            server
                .opener
                .check_control(&head, &control)
                .expect("an honest control part");
            let (_, request) = Request::decode(&head, &control).expect("an honest request");
            let (Request::Get(entries) | Request::Exists(entries)) = request else {
                return;
            };
            black_box(entries.iter().map(<[u8]>::len).sum::<usize>());
        });
    }
}
