//! Goal: every message round-trips, and no bytes from the network panic or decode to two messages.
//! Method: generated messages, and arbitrary or damaged bytes that must be refused or re-encode to themselves.

use std::num::NonZeroU64;

use pageswarm_checkpoint::wire::{
    BirthRange, Control, Hello, LinkRate, Need, NeedTime, ObjectAnswer, ObjectRequest, Opening, Patience,
    PeerAddress, Place, Refusal, RunAnswer, RunRequest, Urgency,
};
use pageswarm_checkpoint::{
    Birth, CheckpointIndex, ChunkRef, EncodedChunk, Encoding, Generation, LineageId, NodeId,
};
use proptest::prelude::*;

fn chunk_ref() -> impl Strategy<Value = ChunkRef> {
    (0_u16..3, 0_u64..1 << 40)
        .prop_map(|(generation, birth)| ChunkRef { generation: Generation(generation), birth: Birth(birth) })
}

fn ranges() -> impl Strategy<Value = Vec<BirthRange>> {
    proptest::collection::vec((0_u64..1000, 1_u64..1000), 0..30).prop_map(|pairs| {
        let mut next = 0;
        pairs
            .into_iter()
            .map(|(gap, length)| {
                let first = next + gap;
                next = first + length;
                BirthRange { first: Birth(first), length }
            })
            .collect()
    })
}

fn opening() -> impl Strategy<Value = Opening> {
    let lineage = any::<[u8; 32]>().prop_map(LineageId);
    let urgency = prop_oneof![Just(Urgency::Fault), Just(Urgency::Deadline), Just(Urgency::Normal)];
    let chunks = proptest::collection::btree_map(0_u64..1 << 40, proptest::option::of(chunk_ref()), 0..50);
    let patience = prop_oneof![Just(Patience::MayDefer), Just(Patience::Insist)];
    let run =
        (lineage.clone(), urgency, patience, chunks).prop_map(|(lineage, urgency, patience, chunks)| {
            RunRequest {
                lineage,
                urgency,
                patience,
                chunks: chunks.into_iter().map(|(birth, base)| (Birth(birth), base)).collect(),
            }
        });
    let object = (lineage, any::<u64>(), 0..5).prop_map(|(lineage, index, kind)| match kind {
        0 => ObjectRequest::Genesis(lineage),
        1 => ObjectRequest::WriterCertificate(lineage),
        2 => ObjectRequest::Head(lineage, CheckpointIndex(index)),
        3 => ObjectRequest::Delta(lineage, CheckpointIndex(index)),
        _ => ObjectRequest::Keyframe(lineage, CheckpointIndex(index)),
    });
    prop_oneof![
        Just(Opening::Control),
        Just(Opening::Renew),
        any::<[u8; 16]>().prop_map(|invitation| Opening::Join { invitation }),
        run.prop_map(Opening::Run),
        object.prop_map(Opening::Object),
    ]
}

fn link_rate() -> impl Strategy<Value = LinkRate> {
    prop_oneof![
        Just(LinkRate::Unknown),
        any::<NonZeroU64>().prop_map(LinkRate::Measured),
        any::<NonZeroU64>().prop_map(LinkRate::Configured),
    ]
}

fn need() -> impl Strategy<Value = Need> {
    let times = proptest::collection::vec((0_u64..5000, 0_u64..5000), 0..16).prop_map(|spans| {
        let mut ago = 0;
        let mut times: Vec<NeedTime> = spans
            .into_iter()
            .map(|(gap, length)| {
                let ended_ms_ago = ago + gap;
                ago = ended_ms_ago + length;
                NeedTime { started_ms_ago: ago, ended_ms_ago }
            })
            .collect();
        times.reverse();
        times
    });
    let bytes = (any::<u64>(), any::<u64>(), any::<u64>());
    let births = proptest::option::of(ranges());
    (any::<[u8; 32]>(), link_rate(), link_rate(), bytes, times, births).prop_map(
        |(lineage, up, down, (lacked_bytes, born_bytes, missing_bytes), times, births)| {
            let lineage = LineageId(lineage);
            Need { lineage, up, down, lacked_bytes, born_bytes, missing_bytes, times, births }
        },
    )
}

fn place_name() -> impl Strategy<Value = Option<String>> {
    proptest::option::of("[a-z0-9-]{1,64}")
}

fn control() -> impl Strategy<Value = Control> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    let lineage = || any::<[u8; 32]>().prop_map(LineageId);
    let peer = (any::<[u8; 32]>(), "[a-z0-9.:]{0,30}")
        .prop_map(|(node, address)| PeerAddress { node: NodeId(node), address });
    prop_oneof![
        (bytes(), any::<u16>(), any::<u16>(), any::<[u8; 8]>()).prop_map(
            |(certificate, data_port, gossip_port, session)| {
                Control::Hello(Hello { certificate, data_port, gossip_port, session })
            }
        ),
        proptest::collection::vec(peer, 0..5).prop_map(Control::Peers),
        proptest::collection::vec(bytes(), 0..5).prop_map(Control::Heads),
        (lineage(), ranges()).prop_map(|(lineage, births)| Control::Have { lineage, births }),
        (lineage(), ranges()).prop_map(|(lineage, births)| Control::Lack { lineage, births }),
        bytes().prop_map(Control::Revocations),
        lineage().prop_map(Control::Follow),
        need().prop_map(Control::Need),
        (place_name(), place_name(), place_name()).prop_map(|(zone, rack, host)| Control::Place(Place {
            zone,
            rack,
            host
        })),
    ]
}

fn answer() -> impl Strategy<Value = RunAnswer> {
    let encoding = prop_oneof![
        Just(Encoding::Raw),
        Just(Encoding::Zstd),
        chunk_ref().prop_map(|base| Encoding::Patch { base }),
        chunk_ref().prop_map(|base| Encoding::Diff { base }),
    ];
    let chunk = (any::<u64>(), encoding, any::<u32>(), proptest::collection::vec(any::<u8>(), 0..300))
        .prop_map(|(birth, encoding, decoded_len, bytes)| RunAnswer::Chunk {
            birth: Birth(birth),
            chunk: EncodedChunk { encoding, decoded_len, bytes },
        });
    let form = prop_oneof![Just(Encoding::Patch { base: () }), Just(Encoding::Diff { base: () })];
    let form = (form, any::<u32>(), proptest::collection::vec(any::<u8>(), 0..60));
    let form = form.prop_map(|(encoding, decoded_len, bytes)| EncodedChunk { encoding, decoded_len, bytes });
    let steps = (any::<u64>(), proptest::option::of(chunk_ref()), proptest::collection::vec(form, 2..8))
        .prop_map(|(birth, base, mut steps)| {
            if base.is_none() {
                steps[0].encoding = Encoding::Raw;
            }
            RunAnswer::Steps { birth: Birth(birth), base, steps }
        });
    prop_oneof![
        chunk,
        steps,
        any::<u64>().prop_map(|birth| RunAnswer::NotHeld { birth: Birth(birth) }),
        (any::<u64>(), any::<[u8; 32]>())
            .prop_map(|(birth, node)| RunAnswer::Deferred { birth: Birth(birth), holder: NodeId(node) }),
        prop_oneof![Just(Refusal::Busy), Just(Refusal::NotAllowed), Just(Refusal::Unreasonable)]
            .prop_map(|why| RunAnswer::Refused { why }),
    ]
}

proptest! {
    #[test]
    fn openings_round_trip(message in opening()) {
        prop_assert_eq!(Opening::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn control_messages_round_trip(message in control()) {
        prop_assert_eq!(Control::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn answers_round_trip(answers in proptest::collection::vec(answer(), 1..5)) {
        let mut frame = vec![];
        answers.iter().for_each(|answer| answer.encode_to(&mut frame));
        let read: Vec<RunAnswer> =
            RunAnswer::decode_frame(&frame).unwrap().into_iter().map(RunAnswer::into_owned).collect();
        prop_assert_eq!(read, answers);
    }

    #[test]
    fn damaged_messages_are_refused_or_canonical(
        message in opening(), control in control(), answer in answer(),
        at in any::<prop::sample::Index>(), value in any::<u8>(),
    ) {
        let mut bytes = message.encode();
        let place = at.index(bytes.len());
        bytes[place] = value;
        if let Ok(read) = Opening::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
        let mut bytes = control.encode();
        let place = at.index(bytes.len());
        bytes[place] = value;
        if let Ok(read) = Control::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
        let mut bytes = answer.encode();
        let place = at.index(bytes.len());
        bytes.truncate(place);
        prop_assert!(RunAnswer::decode_frame(&bytes).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(Opening::decode(&bytes));
        drop(Control::decode(&bytes));
        drop(RunAnswer::decode_frame(&bytes));
        drop(ObjectAnswer::decode(&bytes));
    }
}
