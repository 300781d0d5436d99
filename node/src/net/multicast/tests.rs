//! The messages, and a site of many devices on one medium: what everybody's machines say, encoded as on the wire.

use super::message;
use proptest::prelude::*;
use protocol::discovery::{Discovery, Input, Output};
use protocol::identifier::DeviceId;
use protocol::signature::SigningKey;
use protocol::time::Moment;
use std::collections::{BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;

mod medium;

fn device(number: u32) -> DeviceId {
    let mut seed = [1; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    SigningKey::from_seed(&seed).device()
}

fn addresses() -> Vec<SocketAddr> {
    vec![
        SocketAddr::from(([10, 1, 2, 3], 7_700)),
        SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9], 7_700)),
    ]
}

#[test]
fn messages_say_what_was_written() {
    let asked = message::read(&message::question(&[device(1), device(2)]), device(9));
    let known = BTreeSet::from([device(1), device(2)]);
    assert_eq!(asked, [Input::Asked { known, more_follow: false }]);
    let heard = message::read(&message::answer(device(1), &addresses()), device(9));
    let [Input::Heard(sighting)] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((sighting.device, &sighting.addresses), (device(1), &addresses()));
    assert_eq!(sighting.lifetime, protocol::discovery::LIFETIME);
    let left = message::read(&message::goodbye(device(1)), device(9));
    assert!(matches!(&left[..], [Input::Heard(sighting)] if sighting.lifetime.is_zero()), "{left:?}");
}

// An answer fits into one packet of any link, and so does a question with all that it may name.
#[test]
fn messages_fit_into_one_packet() {
    let known: Vec<DeviceId> = (0..16).map(device).collect();
    assert!(message::question(&known).len() <= 1_232, "{}", message::question(&known).len());
    assert!(message::answer(device(1), &addresses()).len() <= 300);
}

#[test]
fn other_services_and_foreign_messages_say_nothing() {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};
    let mut other = Message::new(0, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii("_ipp._tcp.local.").expect("a name");
    other.add_query(Query::query(name, RecordType::PTR));
    assert!(message::read(&other.to_vec().expect("encodes"), device(9)).is_empty());
    assert!(message::read(b"not a message", device(9)).is_empty());
    let mut update = message::answer(device(1), &addresses());
    update[2] |= 0x28;
    assert!(message::read(&update, device(9)).is_empty());
}

// Whatever a stranger packs into a message, each of its records is looked at once, and not all of them.
#[test]
fn an_answer_of_very_many_records_is_read_in_part() {
    use hickory_proto::op::{Message, MessageType, OpCode};
    use hickory_proto::rr::rdata::{A, PTR, SRV};
    use hickory_proto::rr::{Name, RData, Record};
    let service = Name::from_ascii("_patchmesh._tcp.local.").expect("a name");
    let host = Name::from_ascii("h.local.").expect("a name");
    let label = data_encoding::BASE32_NOPAD.encode(device(1).as_bytes()).to_ascii_lowercase();
    let instance = service.prepend_label(label).expect("a name");
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.add_answer(Record::from_rdata(service, 60, RData::PTR(PTR(instance.clone()))));
    for last in 0..protocol::limits::RECORDS_PER_MULTICAST {
        let ip = std::net::Ipv4Addr::new(10, 0, 0, u8::try_from(last % 250).expect("small"));
        message.add_additional(Record::from_rdata(host.clone(), 60, RData::A(A(ip))));
    }
    let srv = Record::from_rdata(instance, 60, RData::SRV(SRV::new(0, 0, 7_700, host)));
    let read = |message: &Message| {
        let heard = message::read(&message.to_vec().expect("encodes"), device(9));
        let [Input::Heard(sighting)] = &heard[..] else { panic!("{heard:?}") };
        sighting.addresses.len()
    };
    let mut late = message.clone();
    late.add_additional(srv.clone());
    assert_eq!(read(&late), 0, "the port stands behind the last record that is read");
    message.additionals.insert(0, srv);
    assert_eq!(read(&message), protocol::limits::ADDRESSES_PER_DEVICE);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = message::read(&bytes, device(9));
    }

    #[test]
    fn damaged_messages_never_panic(
        at in 0usize..400,
        value: u8,
        cut in 0usize..400,
        asks: bool,
    ) {
        let mut bytes = if asks { message::question(&[device(1)]) } else { message::answer(device(1), &addresses()) };
        let at = at % bytes.len();
        bytes[at] = value;
        bytes.truncate(bytes.len().saturating_sub(cut % 40));
        for input in message::read(&bytes, device(9)) {
            if let Input::Heard(sighting) = input {
                prop_assert!(sighting.addresses.len() <= protocol::limits::ADDRESSES_PER_DEVICE);
            }
        }
    }
}
