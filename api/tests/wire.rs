//! SPIRE's field numbers and method paths, as bytes: what the real `spire-server` sends must mean the same here.

#[cfg(test)]
mod wire {
    use midge_api::spire::api::{
        server::{
            agent::v1::{CreateJoinTokenRequest, agent_server},
            bundle::v1::bundle_server,
            entry::v1::{ListEntriesRequest, entry_server, list_entries_request},
            svid::v1::{MintX509svidRequest, svid_server},
        },
        types,
    };
    use prost::Message;

    /// Field numbers in the order in which they are encoded.
    fn numbers(message: &impl Message) -> Vec<u32> {
        let mut bytes = message.encode_to_vec().as_slice().to_vec();
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let mut rest = bytes.as_slice();
            let (number, kind) = prost::encoding::decode_key(&mut rest).unwrap();
            let context = prost::encoding::DecodeContext::default();
            prost::encoding::skip_field(kind, number, &mut rest, context).unwrap();
            found.push(number);
            bytes = rest.to_vec();
        }
        found
    }

    fn text() -> String {
        "x".to_owned()
    }

    #[test]
    fn entry_has_spires_numbers_and_ours_far_away() {
        let entry = types::Entry {
            id: text(),
            spiffe_id: Some(types::Spiffeid { trust_domain: text(), path: text() }),
            parent_id: Some(types::Spiffeid::default()),
            selectors: vec![types::Selector { r#type: text(), value: text() }],
            x509_svid_ttl: 1,
            federates_with: vec![text()],
            admin: true,
            downstream: true,
            expires_at: 1,
            dns_names: vec![text()],
            revision_number: 1,
            store_svid: true,
            jwt_svid_ttl: 1,
            hint: text(),
            created_at: 1,
            publish: vec![text()],
            subscribe: vec![text()],
            origin: text(),
        };
        let mut expected: Vec<u32> = (1..=15).collect();
        expected.extend([1000, 1001, 1002]);
        assert_eq!(numbers(&entry), expected);
        let fixed = types::Entry { hint: text(), ..types::Entry::default() };
        assert_eq!(fixed.encode_to_vec(), [14 << 3 | 2, 1, b'x']);
    }

    #[test]
    fn other_messages_have_spires_numbers() {
        let agent = types::Agent {
            id: Some(types::Spiffeid::default()),
            attestation_type: text(),
            x509svid_serial_number: text(),
            x509svid_expires_at: 1,
            selectors: vec![types::Selector::default()],
            banned: true,
            can_reattest: true,
        };
        assert_eq!(numbers(&agent), [1, 2, 3, 4, 5, 6, 7]);
        let mask = types::AgentMask { attestation_type: true, can_reattest: true, ..Default::default() };
        assert_eq!(numbers(&mask), [2, 7]);
        let token =
            CreateJoinTokenRequest { ttl: 1, token: text(), agent_id: Some(types::Spiffeid::default()) };
        assert_eq!(numbers(&token), [1, 2, 3]);
        let bundle = types::Bundle {
            trust_domain: text(),
            x509_authorities: vec![types::X509Certificate { asn1: vec![1], tainted: true }],
            jwt_authorities: vec![types::JwtKey::default()],
            refresh_hint: 1,
            sequence_number: 1,
        };
        assert_eq!(numbers(&bundle), [1, 2, 3, 4, 5]);
        let svid = types::X509svid {
            cert_chain: vec![vec![1]],
            id: Some(types::Spiffeid::default()),
            expires_at: 1,
            hint: text(),
        };
        assert_eq!(numbers(&svid), [1, 2, 3, 4]);
        assert_eq!(numbers(&MintX509svidRequest { csr: vec![1], ttl: 1 }), [1, 2]);
        let filter = list_entries_request::Filter {
            by_spiffe_id: Some(types::Spiffeid::default()),
            by_parent_id: Some(types::Spiffeid::default()),
            by_selectors: Some(types::SelectorMatch::default()),
            by_federates_with: Some(types::FederatesWithMatch::default()),
            by_hint: Some(text()),
            by_downstream: Some(true),
        };
        assert_eq!(numbers(&filter), [1, 2, 3, 4, 5, 6]);
        let list = ListEntriesRequest {
            filter: Some(filter),
            output_mask: Some(types::EntryMask::default()),
            page_size: 1,
            page_token: text(),
        };
        assert_eq!(numbers(&list), [1, 2, 3, 4]);
    }

    #[test]
    fn services_have_spires_names() {
        assert_eq!(entry_server::SERVICE_NAME, "spire.api.server.entry.v1.Entry");
        assert_eq!(agent_server::SERVICE_NAME, "spire.api.server.agent.v1.Agent");
        assert_eq!(bundle_server::SERVICE_NAME, "spire.api.server.bundle.v1.Bundle");
        assert_eq!(svid_server::SERVICE_NAME, "spire.api.server.svid.v1.SVID");
    }
}
