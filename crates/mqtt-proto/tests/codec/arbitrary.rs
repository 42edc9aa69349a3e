//! Arbitrary packets in the form decoding gives them: absent is `None`, never an empty something.

use bytes::Bytes;
use mqtt_proto::{
    Ack, Auth, ConnAck, Connect, Disconnect, Info, Packet, PacketId, Publication, Publish, PublishProperties,
    QoS, ReasonCode, RetainHandling, SharedFilter, SubAck, Subscribe, Subscription, TopicName, Unsubscribe,
    UserProperties, Version, Will,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::num::NonZeroU16;
use std::sync::Arc;

/// What a server may receive.
pub(crate) fn to_server(version: Version) -> BoxedStrategy<Packet> {
    let both_ways = both_ways(version);
    prop_oneof![
        publish(version, false),
        both_ways,
        subscribe(version),
        unsubscribe(version),
        Just(Packet::PingReq),
        disconnect(version, true),
        auth(version, ReasonCode::ReAuthenticate),
    ]
    .boxed()
}

/// What a client may receive.
pub(crate) fn to_client(version: Version) -> BoxedStrategy<Packet> {
    let farewell = match version {
        Version::V311 => Just(Packet::PingResp).boxed(),
        Version::V5 => disconnect(version, false),
    };
    prop_oneof![
        connack(version),
        publish(version, true),
        both_ways(version),
        suback(version),
        unsuback(version),
        Just(Packet::PingResp),
        farewell,
        auth(version, ReasonCode::Success),
    ]
    .boxed()
}

pub(crate) fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V311), Just(Version::V5)]
}

pub(crate) fn connect(version: Version) -> BoxedStrategy<Packet> {
    let v5 = version == Version::V5;
    let head = (any::<bool>(), any::<u16>(), text(), option::of(will(version)), option::of(text()));
    let password = option::of(binary());
    let numbers = (option::of(any::<u32>()), option::of(nonzero()), option::of(1..=u32::MAX), any::<u16>());
    let rest = (any::<(bool, bool)>(), user_properties(), option::of((text(), option::of(binary()))));
    (head, password, numbers, rest)
        .prop_map(move |(head, password, numbers, (info, user_properties, auth))| {
            let (clean_start, keep_alive_secs, client_id, will, username) = head;
            let password = password.filter(|_| v5 || username.is_some());
            let plain = Connect {
                clean_start,
                keep_alive_secs,
                will,
                username,
                password,
                ..Connect::new(version, client_id)
            };
            if !v5 {
                return Packet::Connect(Box::new(plain));
            }
            let (auth_method, auth_data) = auth.unzip();
            let (session_expiry_secs, receive_max, packet_size_max, topic_alias_max) = numbers;
            Packet::Connect(Box::new(Connect {
                session_expiry_secs,
                receive_max,
                packet_size_max,
                topic_alias_max,
                request_response_info: info.0,
                request_problem_info: info.1,
                user_properties,
                auth_method,
                auth_data: auth_data.flatten(),
                ..plain
            }))
        })
        .boxed()
}

fn will(version: Version) -> impl Strategy<Value = Will> {
    let properties = properties(version);
    (topic(), binary(), qos(), any::<bool>(), properties, any::<u32>()).prop_map(
        move |(topic, payload, qos, retain, properties, delay_secs)| Will {
            message: Publication { topic, payload, qos, retain, properties },
            delay_secs: if version == Version::V5 { delay_secs } else { 0 },
        },
    )
}

fn properties(version: Version) -> BoxedStrategy<Option<Arc<PublishProperties>>> {
    if version == Version::V311 {
        return Just(None).boxed();
    }
    let numbers = (option::of(any::<bool>()), option::of(any::<u32>()));
    let texts = (option::of(text()), option::of(topic()), option::of(binary()));
    (numbers, texts, user_properties())
        .prop_map(|((payload_is_utf8, message_expiry_secs), texts, user_properties)| {
            let (content_type, response_topic, correlation_data) = texts;
            let properties = PublishProperties {
                payload_is_utf8,
                message_expiry_secs,
                content_type,
                response_topic,
                correlation_data,
                user_properties,
            };
            (properties != PublishProperties::default()).then(|| Arc::new(properties))
        })
        .boxed()
}

fn publish(version: Version, from_server: bool) -> BoxedStrategy<Packet> {
    let flags = (any::<bool>(), qos(), any::<bool>(), packet_id());
    let topic = (topic(), option::of(nonzero()), any::<bool>());
    let ids = vec(1..=268_435_455u32, 0..4);
    (flags, topic, ids, properties(version), binary())
        .prop_map(move |(flags, (topic, topic_alias, by_alias), subscription_ids, properties, payload)| {
            let (dup, qos, retain, packet_id) = flags;
            let topic_alias = topic_alias.filter(|_| version == Version::V5);
            let ids_allowed = from_server && version == Version::V5;
            Packet::Publish(Box::new(Publish {
                dup: dup && qos != QoS::AtMostOnce,
                qos,
                retain,
                topic: Some(topic).filter(|_| topic_alias.is_none() || !by_alias),
                packet_id: Some(packet_id).filter(|_| qos != QoS::AtMostOnce),
                topic_alias,
                subscription_ids: if ids_allowed { subscription_ids } else { Vec::new() },
                properties,
                payload,
            }))
        })
        .boxed()
}

fn both_ways(version: Version) -> BoxedStrategy<Packet> {
    use ReasonCode as R;
    let of_publish = [
        R::Success,
        R::NoMatchingSubscribers,
        R::UnspecifiedError,
        R::ImplementationSpecificError,
        R::NotAuthorized,
        R::TopicNameInvalid,
        R::PacketIdentifierInUse,
        R::QuotaExceeded,
        R::PayloadFormatInvalid,
    ];
    let of_release = [R::Success, R::PacketIdentifierNotFound];
    prop_oneof![
        ack(version, &of_publish).prop_map(Packet::PubAck),
        ack(version, &of_publish).prop_map(Packet::PubRec),
        ack(version, &of_release).prop_map(Packet::PubRel),
        ack(version, &of_release).prop_map(Packet::PubComp),
    ]
    .boxed()
}

fn ack(version: Version, reasons: &[ReasonCode]) -> impl Strategy<Value = Ack> + use<> {
    let reasons = proptest::sample::select(reasons.to_vec());
    (packet_id(), reasons, info(version)).prop_map(move |(packet_id, reason, info)| Ack {
        packet_id,
        reason: if version == Version::V5 { reason } else { ReasonCode::Success },
        info: (info != Info::default()).then(|| Box::new(info)),
    })
}

fn connack(version: Version) -> BoxedStrategy<Packet> {
    let reasons = [
        ReasonCode::Success,
        ReasonCode::UnsupportedProtocolVersion,
        ReasonCode::ClientIdentifierNotValid,
        ReasonCode::ServerUnavailable,
        ReasonCode::BadUserNameOrPassword,
        ReasonCode::NotAuthorized,
    ];
    let numbers = (
        option::of(any::<u32>()),
        option::of(nonzero()),
        option::of(1..=u32::MAX),
        any::<u16>(),
        option::of(any::<u16>()),
    );
    let flags = any::<(bool, Option<bool>, Option<bool>, Option<bool>, Option<bool>, Option<bool>)>();
    let texts = (option::of(text()), option::of(text()), option::of(text()));
    let auth = option::of((text(), option::of(binary())));
    (proptest::sample::select(reasons.to_vec()), numbers, flags, texts, auth, info(version))
        .prop_map(move |(reason, numbers, flags, texts, auth, info)| {
            let mut connack = ConnAck::new(reason);
            connack.session_present = flags.0 && reason == ReasonCode::Success;
            if version == Version::V311 {
                return Packet::ConnAck(Box::new(connack));
            }
            let (auth_method, auth_data) = auth.unzip();
            let qos_max = flags.1.map(|qos1| if qos1 { QoS::AtLeastOnce } else { QoS::AtMostOnce });
            Packet::ConnAck(Box::new(ConnAck {
                session_expiry_secs: numbers.0,
                receive_max: numbers.1,
                qos_max,
                retain_available: flags.2,
                packet_size_max: numbers.2,
                assigned_client_id: texts.0,
                topic_alias_max: numbers.3,
                wildcard_available: flags.3,
                subscription_ids_available: flags.4,
                shared_available: flags.5,
                server_keep_alive_secs: numbers.4,
                response_info: texts.1,
                server_reference: texts.2,
                auth_method,
                auth_data: auth_data.flatten(),
                info,
                ..connack
            }))
        })
        .boxed()
}

fn subscribe(version: Version) -> BoxedStrategy<Packet> {
    let id = option::of(1..=268_435_455u32);
    (packet_id(), id, user_properties(), vec(subscription(version), 1..5))
        .prop_map(move |(packet_id, subscription_id, user_properties, subscriptions)| {
            let v5 = version == Version::V5;
            Packet::Subscribe(Box::new(Subscribe {
                packet_id,
                subscription_id: subscription_id.filter(|_| v5),
                user_properties: if v5 { user_properties } else { Vec::new() },
                subscriptions,
            }))
        })
        .boxed()
}

fn subscription(version: Version) -> impl Strategy<Value = Subscription> {
    let retain_handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend),
    ];
    (filter(), qos(), any::<(bool, bool)>(), retain_handling).prop_map(
        move |(filter, qos, (no_local, retain_as_published), retain_handling)| {
            let v5 = version == Version::V5;
            Subscription {
                qos,
                no_local: v5 && no_local && filter.group.is_none(),
                retain_as_published: v5 && retain_as_published,
                retain_handling: if v5 { retain_handling } else { RetainHandling::Send },
                filter,
            }
        },
    )
}

fn unsubscribe(version: Version) -> BoxedStrategy<Packet> {
    (packet_id(), user_properties(), vec(filter(), 1..5))
        .prop_map(move |(packet_id, user_properties, filters)| {
            let user_properties = if version == Version::V5 { user_properties } else { Vec::new() };
            Packet::Unsubscribe(Box::new(Unsubscribe { packet_id, user_properties, filters }))
        })
        .boxed()
}

fn suback(version: Version) -> BoxedStrategy<Packet> {
    use ReasonCode as R;
    let mut reasons = vec![R::Success, R::GrantedQos1, R::GrantedQos2, R::UnspecifiedError];
    if version == Version::V5 {
        reasons.extend([R::NotAuthorized, R::TopicFilterInvalid, R::WildcardSubscriptionsNotSupported]);
    }
    (packet_id(), info(version), vec(proptest::sample::select(reasons), 1..5))
        .prop_map(|(packet_id, info, reasons)| Packet::SubAck(Box::new(SubAck { packet_id, info, reasons })))
        .boxed()
}

fn unsuback(version: Version) -> BoxedStrategy<Packet> {
    let reasons = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted, ReasonCode::NotAuthorized];
    let reasons = match version {
        Version::V311 => Just(Vec::new()).boxed(),
        Version::V5 => vec(proptest::sample::select(reasons.to_vec()), 1..5).boxed(),
    };
    (packet_id(), info(version), reasons)
        .prop_map(|(packet_id, info, reasons)| {
            Packet::UnsubAck(Box::new(SubAck { packet_id, info, reasons }))
        })
        .boxed()
}

fn disconnect(version: Version, from_client: bool) -> BoxedStrategy<Packet> {
    let reasons = match (version, from_client) {
        (Version::V311, _) => vec![ReasonCode::Success],
        (Version::V5, true) => {
            vec![ReasonCode::Success, ReasonCode::DisconnectWithWill, ReasonCode::QuotaExceeded]
        }
        (Version::V5, false) => vec![ReasonCode::ServerMoved, ReasonCode::SessionTakenOver],
    };
    let properties = (option::of(any::<u32>()), option::of(text()), info(version));
    (proptest::sample::select(reasons), properties)
        .prop_map(move |(reason, (session_expiry_secs, server_reference, info))| {
            let v5 = version == Version::V5;
            Packet::Disconnect(Box::new(Disconnect {
                reason,
                session_expiry_secs: session_expiry_secs.filter(|_| v5 && from_client),
                server_reference: server_reference.filter(|_| v5),
                info,
            }))
        })
        .boxed()
}

fn auth(version: Version, one_way: ReasonCode) -> BoxedStrategy<Packet> {
    if version == Version::V311 {
        return both_ways(version);
    }
    let reason = proptest::sample::select(vec![ReasonCode::ContinueAuthentication, one_way]);
    (reason, text(), option::of(binary()), info(version))
        .prop_map(|(reason, method, data, info)| {
            Packet::Auth(Box::new(Auth { reason, method: Some(method), data, info }))
        })
        .boxed()
}

fn info(version: Version) -> BoxedStrategy<Info> {
    match version {
        Version::V311 => Just(Info::default()).boxed(),
        Version::V5 => (option::of(text()), user_properties())
            .prop_map(|(reason_string, user_properties)| Info { reason_string, user_properties })
            .boxed(),
    }
}

fn user_properties() -> impl Strategy<Value = UserProperties> {
    vec((text(), text()), 0..3)
}

fn text() -> impl Strategy<Value = Arc<str>> {
    "[^\0]{0,12}".prop_map(Arc::from)
}

fn binary() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        9 => vec(any::<u8>(), 0..40).prop_map(Bytes::from),
        1 => vec(any::<u8>(), 100..20_000).prop_map(Bytes::from),
    ]
}

fn topic() -> impl Strategy<Value = TopicName> {
    "[^\0+#]{1,20}".prop_map(|name| TopicName::new(name).unwrap())
}

fn filter() -> impl Strategy<Value = SharedFilter> {
    r"(\$share/[^\x00+#/]{1,5}/)?(([^\x00+#/]{0,3}|\+)/){0,3}(#|\+|[^\x00+#/$]{1,3})"
        .prop_filter_map("a filter that only looks shared", |text| SharedFilter::new(&text).ok())
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    nonzero()
}

fn nonzero() -> impl Strategy<Value = NonZeroU16> {
    any::<NonZeroU16>()
}
