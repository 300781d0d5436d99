//! The messages of multicast DNS (RFC 6762) for one service of DNS-SD (RFC 6763): `_patchmesh._tcp.local`.
//!
//! An instance is named by its device's public key in base 32, so names are unique by construction and need no probing.
//! Nothing but that identity and the addresses stands in a message.

use data_encoding::BASE32_NOPAD;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use protocol::discovery::{Input, LIFETIME, Sighting};
use protocol::identifier::DeviceId;
use protocol::limits;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const SERVICE: [&str; 3] = ["_patchmesh", "_tcp", "local"];
/// Addresses and ports hold for two minutes in the caches of others (RFC 6762, section 10).
const HOST_SECONDS: u32 = 120;
/// Characters of the identity that name a host.
const HOST_CHARACTERS: usize = 20;

fn service() -> Name {
    let name = Name::from_labels(SERVICE).unwrap_or_default();
    debug_assert_eq!(usize::from(name.num_labels()), SERVICE.len());
    name
}

fn label(device: DeviceId) -> String {
    BASE32_NOPAD.encode(device.as_bytes()).to_ascii_lowercase()
}

fn instance(device: DeviceId) -> Name {
    service().prepend_label(label(device)).unwrap_or_default()
}

fn host(device: DeviceId) -> Name {
    Name::from_labels([&label(device)[..HOST_CHARACTERS], "local"]).unwrap_or_default()
}

/// The device that an instance of the service is named after.
fn device_of(instance: &Name) -> Option<DeviceId> {
    let labels = usize::from(instance.num_labels());
    if labels != SERVICE.len() + 1 || !service().zone_of(instance) {
        return None;
    }
    let first = instance.iter().next()?.to_ascii_uppercase();
    let bytes: [u8; 32] = BASE32_NOPAD.decode(&first).ok()?.try_into().ok()?;
    Some(DeviceId::from_bytes(bytes))
}

/// The question which devices there are, but for those that are `known`.
pub(super) fn question(known: &[DeviceId]) -> Vec<u8> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(service(), RecordType::PTR));
    // At least half of its time is left to each of them.
    message.add_answers(known.iter().map(|device| pointer(*device, LIFETIME / 2 + Duration::from_secs(1))));
    encode(&message)
}

/// The statement that `device` listens at `addresses`.
pub(super) fn answer(device: DeviceId, addresses: &[SocketAddr]) -> Vec<u8> {
    let mut message = response();
    message.add_answer(pointer(device, LIFETIME));
    let Some(port) = addresses.first().map(SocketAddr::port) else { return encode(&message) };
    let unique = |name: Name, data: RData| {
        let mut record = Record::from_rdata(name, HOST_SECONDS, data);
        record.mdns_cache_flush = true;
        record
    };
    message.add_additional(unique(instance(device), RData::SRV(SRV::new(0, 0, port, host(device)))));
    message.add_additional(unique(instance(device), RData::TXT(TXT::new(vec![String::new()]))));
    for address in addresses.iter().filter(|address| address.port() == port) {
        let data = match address.ip() {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        message.add_additional(unique(host(device), data));
    }
    encode(&message)
}

/// The statement that `device` leaves (RFC 6762, section 10.1).
pub(super) fn goodbye(device: DeviceId) -> Vec<u8> {
    let mut message = response();
    message.add_answer(pointer(device, Duration::ZERO));
    encode(&message)
}

fn response() -> Message {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.authoritative = true;
    message
}

fn pointer(device: DeviceId, lifetime: Duration) -> Record {
    let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
    Record::from_rdata(service(), seconds, RData::PTR(PTR(instance(device))))
}

fn encode(message: &Message) -> Vec<u8> {
    // Only names that are too long cannot be written, and ours have one length.
    message.to_vec().unwrap_or_default()
}

/// What a message says about devices, as far as it concerns `own`. Anything that is not such a message says nothing.
pub(super) fn read(bytes: &[u8], own: DeviceId) -> Vec<Input> {
    if bytes.len() > limits::MULTICAST_BYTES {
        return Vec::new();
    }
    let Ok(message) = Message::from_vec(bytes) else { return Vec::new() };
    // Anything else is to be ignored (section 18).
    if message.metadata.op_code != OpCode::Query {
        return Vec::new();
    }
    match message.metadata.message_type {
        MessageType::Query => read_question(&message, own),
        MessageType::Response => read_answer(&message).into_iter().map(Input::Heard).collect(),
    }
}

fn read_question(message: &Message, own: DeviceId) -> Vec<Input> {
    let half = LIFETIME.as_secs() / 2;
    let pointers = pointers(message).filter(|(_, lifetime)| lifetime.as_secs() >= half);
    let known: BTreeSet<DeviceId> = pointers.map(|(device, _)| device).collect();
    let is = |query: &&Query, name: &Name, kinds: &[RecordType]| {
        let kind = query.query_type();
        query.name() == name && (kind == RecordType::ANY || kinds.contains(&kind))
    };
    let queries = || message.queries.iter().take(limits::DEVICES_PER_MULTICAST);
    if queries().any(|query| is(&query, &service(), &[RecordType::PTR])) {
        return vec![Input::Asked { known, more_follow: message.metadata.truncation }];
    }
    let about_us = |query: &Query| {
        is(&query, &instance(own), &[RecordType::SRV, RecordType::TXT])
            || is(&query, &host(own), &[RecordType::A, RecordType::AAAA])
    };
    match message.queries.is_empty() {
        true if !known.is_empty() => vec![Input::Knows(known)],
        false if queries().any(about_us) => vec![Input::AskedForUs],
        _ => Vec::new(),
    }
}

/// The devices that the service's pointers name, with the time that they hold.
fn pointers(message: &Message) -> impl Iterator<Item = (DeviceId, Duration)> + '_ {
    let service = service();
    let named = message.answers.iter().filter_map(move |record| {
        let RData::PTR(PTR(instance)) = &record.data else { return None };
        let device = device_of(instance).filter(|_| record.name == service)?;
        Some((device, Duration::from_secs(record.ttl.into())))
    });
    named.take(limits::DEVICES_PER_MULTICAST)
}

fn read_answer(message: &Message) -> Vec<Sighting> {
    let mut ports: BTreeMap<DeviceId, (u16, &Name)> = BTreeMap::new();
    let mut hosts: BTreeMap<&Name, Vec<IpAddr>> = BTreeMap::new();
    let records = message.answers.iter().chain(&message.additionals);
    for record in records.take(limits::RECORDS_PER_MULTICAST) {
        let ip = match &record.data {
            RData::SRV(srv) => {
                if let Some(device) = device_of(&record.name) {
                    ports.insert(device, (srv.port, &srv.target));
                }
                continue;
            }
            RData::A(A(ip)) => IpAddr::V4(*ip),
            RData::AAAA(AAAA(ip)) => IpAddr::V6(*ip),
            _ => continue,
        };
        hosts.entry(&record.name).or_default().push(ip);
    }
    let addresses = |device: DeviceId| {
        let Some((port, target)) = ports.get(&device) else { return Vec::new() };
        let ips = hosts.get(target).into_iter().flatten().take(limits::ADDRESSES_PER_DEVICE);
        ips.map(|ip| SocketAddr::new(*ip, *port)).collect()
    };
    pointers(message)
        .map(|(device, lifetime)| Sighting { device, addresses: addresses(device), lifetime })
        .collect()
}
