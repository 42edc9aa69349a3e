//! SPIRE's server API over a Unix socket, as `spire-server` would call it.

use crate::place::{Place, csr, id, verify};
use hyper_util::rt::TokioIo;
use midge_api::spire::api::{
    server::{
        agent::v1::{
            BanAgentRequest, CountAgentsRequest, CreateJoinTokenRequest, DeleteAgentRequest, GetAgentRequest,
            ListAgentsRequest, agent_client::AgentClient, list_agents_request,
        },
        bundle::v1::{
            CountBundlesRequest, GetBundleRequest, GetFederatedBundleRequest, ListFederatedBundlesRequest,
            bundle_client::BundleClient,
        },
        entry::v1::{
            BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest,
            GetEntryRequest, ListEntriesRequest, count_entries_request, entry_client::EntryClient,
            list_entries_request,
        },
        svid::v1::{MintX509svidRequest, svid_client::SvidClient},
    },
    types,
};
use midge_issuer::{Issuer, admin_services};
use midge_pki::TrustSource;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Server, Uri},
};
use tower::service_fn;

pub(crate) struct Admin {
    place: Place,
    pub(crate) issuer: Issuer,
    channel: Channel,
}

pub(crate) async fn admin(place: Place) -> Admin {
    let issuer = place.open().await;
    let path = place.folder.path().join("admin.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let routes = admin_services(&issuer);
    tokio::spawn(async move {
        Server::builder().add_routes(routes).serve_with_incoming(UnixListenerStream::new(listener)).await
    });
    let connect = service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connect).await.unwrap();
    Admin { place, issuer, channel }
}

fn api_id(path: &str) -> types::Spiffeid {
    types::Spiffeid { trust_domain: "plant.example".to_owned(), path: path.to_owned() }
}

pub(crate) fn entry(path: &str, uid: u32) -> types::Entry {
    types::Entry {
        spiffe_id: Some(api_id(path)),
        parent_id: Some(api_id("/edge/box-1")),
        selectors: vec![types::Selector { r#type: "unix".to_owned(), value: format!("uid:{uid}") }],
        publish: vec![format!("from/{uid}")],
        ..types::Entry::default()
    }
}

pub(crate) fn status(status: &Option<types::Status>) -> (Code, &str) {
    let status = status.as_ref().unwrap();
    (Code::from_i32(status.code), &status.message)
}

pub(crate) fn refusal<T>(result: Result<T, Status>) -> (Code, String) {
    let status = result.err().unwrap();
    (status.code(), status.message().to_owned())
}

impl Admin {
    fn entries(&self) -> EntryClient<Channel> {
        EntryClient::new(self.channel.clone())
    }

    fn agents(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel.clone())
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn bundles(&self) -> BundleClient<Channel> {
        BundleClient::new(self.channel.clone())
    }

    pub(crate) async fn create(
        &self,
        entries: Vec<types::Entry>,
    ) -> Vec<(Option<types::Status>, Option<types::Entry>)> {
        let request = BatchCreateEntryRequest { entries, output_mask: None };
        let results = self.entries().batch_create_entry(request).await.unwrap().into_inner().results;
        results.into_iter().map(|result| (result.status, result.entry)).collect()
    }
}

#[tokio::test]
async fn entries_are_created_shown_listed_and_counted() {
    let admin = admin(Place::standalone()).await;
    let results = admin.create(vec![entry("/edge/box-1/a", 1), entry("/edge/box-1/b", 2)]).await;
    assert!(results.iter().all(|(outcome, _)| status(outcome) == (Code::Ok, "OK")));
    let made = results[0].1.clone().unwrap();
    assert_eq!((made.spiffe_id.clone(), made.origin.as_str()), (Some(api_id("/edge/box-1/a")), "edge"));
    assert_eq!((made.publish.clone(), made.revision_number), (vec!["from/1".to_owned()], 0));
    assert!(!made.id.is_empty() && made.created_at == 1_700_000_000);

    let shown = admin.entries().get_entry(GetEntryRequest { id: made.id.clone(), output_mask: None }).await;
    assert_eq!(shown.unwrap().into_inner(), made);
    let count = admin.entries().count_entries(CountEntriesRequest { filter: None }).await.unwrap();
    assert_eq!(count.into_inner().count, 2);
    let filter = Some(count_entries_request::Filter {
        by_spiffe_id: Some(api_id("/edge/box-1/b")),
        ..Default::default()
    });
    let count = admin.entries().count_entries(CountEntriesRequest { filter }).await.unwrap();
    assert_eq!(count.into_inner().count, 1);
}

#[tokio::test]
async fn each_item_of_a_batch_has_its_own_status() {
    let admin = admin(Place::standalone()).await;
    let mut no_selector = entry("/edge/box-1/c", 3);
    no_selector.selectors.clear();
    let mut no_parent = entry("/edge/box-1/d", 4);
    no_parent.parent_id = None;
    let mut negative = entry("/edge/box-1/e", 5);
    negative.x509_svid_ttl = -1;
    let twin = entry("/edge/box-1/a", 1);
    let results = admin.create(vec![twin.clone(), no_selector, no_parent, twin, negative]).await;
    assert_eq!(status(&results[0].0), (Code::Ok, "OK"));
    assert_eq!(
        status(&results[1].0),
        (Code::InvalidArgument, "failed to convert entry: selector list is empty")
    );
    assert_eq!(
        status(&results[2].0),
        (Code::InvalidArgument, "failed to convert entry: invalid parent ID: request must specify SPIFFE ID")
    );
    assert_eq!(status(&results[3].0), (Code::AlreadyExists, "similar entry already exists"));
    assert_eq!(results[3].1, results[0].1, "the existing entry is returned");
    assert_eq!(status(&results[4].0).0, Code::InvalidArgument);
}

#[tokio::test]
async fn lists_come_in_pages_filtered_and_masked() {
    let admin = admin(Place::standalone()).await;
    admin.create((0..5).map(|uid| entry("/edge/box-1/a", uid)).collect()).await;
    let mut ids = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListEntriesRequest { page_size: 2, page_token, ..Default::default() };
        let page = admin.entries().list_entries(request).await.unwrap().into_inner();
        assert!(page.entries.len() <= 2);
        ids.extend(page.entries.into_iter().map(|entry| entry.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let mut sorted = ids.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((ids.len(), &sorted), (5, &ids));

    let by_selectors = types::SelectorMatch {
        selectors: vec![types::Selector { r#type: "unix".to_owned(), value: "uid:3".to_owned() }],
        r#match: types::selector_match::MatchBehavior::MatchExact as i32,
    };
    let request = ListEntriesRequest {
        filter: Some(list_entries_request::Filter { by_selectors: Some(by_selectors), ..Default::default() }),
        output_mask: Some(types::EntryMask { spiffe_id: true, ..Default::default() }),
        ..Default::default()
    };
    let found = admin.entries().list_entries(request).await.unwrap().into_inner().entries;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].spiffe_id.clone(), found[0].parent_id.clone()),
        (Some(api_id("/edge/box-1/a")), None)
    );
    assert!(!found[0].id.is_empty() && found[0].publish.is_empty());
}

#[tokio::test]
async fn malformed_filters_and_ids_are_refused_in_spires_words() {
    let admin = admin(Place::standalone()).await;
    let list = async |filter: list_entries_request::Filter| {
        let request = ListEntriesRequest { filter: Some(filter), ..Default::default() };
        refusal(admin.entries().list_entries(request).await)
    };
    let foreign = types::Spiffeid { trust_domain: "elsewhere".to_owned(), path: "/a".to_owned() };
    let (code, message) =
        list(list_entries_request::Filter { by_parent_id: Some(foreign), ..Default::default() }).await;
    assert!(
        code == Code::InvalidArgument && message.starts_with("malformed parent ID filter: "),
        "{message}"
    );
    let sneaky = types::Spiffeid { trust_domain: "plant.example/edge".to_owned(), path: "/box-1".to_owned() };
    let (code, message) =
        list(list_entries_request::Filter { by_spiffe_id: Some(sneaky), ..Default::default() }).await;
    assert!(
        code == Code::InvalidArgument && message.starts_with("malformed SPIFFE ID filter: "),
        "{message}"
    );
    let empty = types::SelectorMatch::default();
    let (code, message) =
        list(list_entries_request::Filter { by_selectors: Some(empty), ..Default::default() }).await;
    assert_eq!(
        (code, message.as_str()),
        (Code::InvalidArgument, "malformed selectors filter: empty selector set")
    );
    let get = async |id: &str| {
        refusal(admin.entries().get_entry(GetEntryRequest { id: id.to_owned(), output_mask: None }).await)
    };
    assert_eq!(get("").await, (Code::InvalidArgument, "missing ID".to_owned()));
    assert_eq!(get("absent").await, (Code::NotFound, "entry not found".to_owned()));
}

#[tokio::test]
async fn updates_take_the_fields_of_the_mask() {
    let admin = admin(Place::standalone()).await;
    let made = admin.create(vec![entry("/edge/box-1/a", 1)]).await[0].1.clone().unwrap();
    let update = async |entry: types::Entry, input_mask| {
        let request = BatchUpdateEntryRequest { entries: vec![entry], input_mask, output_mask: None };
        let mut results = admin.entries().batch_update_entry(request).await.unwrap().into_inner().results;
        results.pop().unwrap()
    };
    let only_ttl = types::EntryMask { x509_svid_ttl: true, ..Default::default() };
    let change = types::Entry { id: made.id.clone(), x509_svid_ttl: 99, ..Default::default() };
    let updated = update(change.clone(), Some(only_ttl)).await.entry.unwrap();
    assert_eq!(updated, types::Entry { x509_svid_ttl: 99, revision_number: 1, ..made.clone() });

    let whole = update(change, None).await;
    assert_eq!(status(&whole.status).0, Code::InvalidArgument, "without a mask all fields count");
    let absent = types::Entry { id: "absent".to_owned(), ..Default::default() };
    let absent = update(absent, Some(only_ttl)).await;
    assert_eq!(status(&absent.status), (Code::NotFound, "failed to update entry: entry not found"));
    let full = types::Entry { publish: Vec::new(), ..entry("/edge/box-1/z", 7) };
    let full = update(types::Entry { id: made.id.clone(), ..full }, None).await.entry.unwrap();
    assert_eq!(
        (full.spiffe_id, full.publish.len(), full.revision_number),
        (Some(api_id("/edge/box-1/z")), 0, 2)
    );
}

#[tokio::test]
async fn deletions_answer_per_id() {
    let admin = admin(Place::standalone()).await;
    let made = admin.create(vec![entry("/edge/box-1/a", 1)]).await[0].1.clone().unwrap();
    let ids = vec![made.id.clone(), "absent".to_owned(), String::new()];
    let request = BatchDeleteEntryRequest { ids };
    let results = admin.entries().batch_delete_entry(request).await.unwrap().into_inner().results;
    assert_eq!((status(&results[0].status), &results[0].id), ((Code::Ok, "OK"), &made.id));
    assert_eq!(status(&results[1].status), (Code::NotFound, "entry not found"));
    assert_eq!(status(&results[2].status), (Code::InvalidArgument, "missing entry ID"));
    assert!(admin.issuer.view().entries.is_empty());
}

#[tokio::test]
async fn entries_made_at_the_cloud_are_the_clouds() {
    let admin = admin(Place::cloud()).await;
    let results = admin.create(vec![entry("/edge/box-1/a", 1), entry("/edge/box-2/a", 1)]).await;
    let made = results[0].1.clone().unwrap();
    assert_eq!(made.origin, "cloud");
    assert_eq!(status(&results[1].0).0, Code::InvalidArgument, "a box cannot sign for another");
    let request = BatchDeleteEntryRequest { ids: vec![made.id] };
    let results = admin.entries().batch_delete_entry(request).await.unwrap().into_inner().results;
    assert_eq!(status(&results[0].status).0, Code::Ok);
}

#[tokio::test]
async fn tokens_are_made_and_spent() {
    let admin = admin(Place::cloud()).await;
    let create = async |ttl: i32, token: &str, agent: Option<types::Spiffeid>| {
        let request = CreateJoinTokenRequest { ttl, token: token.to_owned(), agent_id: agent };
        admin.agents().create_join_token(request).await.map(|response| response.into_inner())
    };
    let made = create(600, "", Some(api_id("/edge/box-1"))).await.unwrap();
    assert_eq!((made.value.len(), made.expires_at), (36, 1_700_000_600));
    let joined = admin.issuer.redeem(&made.value, &csr(None).1, None).await.unwrap();
    assert_eq!(joined.node.id, id("/edge/box-1"));

    for ttl in [0, -5] {
        let expected = (Code::InvalidArgument, "ttl is required, you must provide one".to_owned());
        assert_eq!(refusal(create(ttl, "", None).await), expected);
    }
    let two = || Some(api_id("/edge/box-2"));
    create(60, "mine", two()).await.unwrap();
    assert_eq!(refusal(create(60, "mine", two()).await).0, Code::AlreadyExists);
    assert_eq!(refusal(create(60, "", None).await).0, Code::InvalidArgument);
    for path in ["/foo", "/edge", "/edge/box-1/mapper/x"] {
        let (code, message) = refusal(create(60, "", Some(api_id(path))).await);
        assert!(code == Code::InvalidArgument && message.ends_with("plant.example/edge/<node>"), "{message}");
    }
    let foreign = types::Spiffeid { trust_domain: "elsewhere".to_owned(), path: "/a".to_owned() };
    let (code, message) = refusal(create(60, "", Some(foreign)).await);
    assert!(code == Code::InvalidArgument && message.starts_with("invalid agent ID: "), "{message}");
}

#[tokio::test]
async fn no_token_is_made_where_no_box_joins() {
    for place in [Place::standalone(), Place::edge()] {
        let admin = admin(place).await;
        let agent_id = Some(api_id("/edge/box-2"));
        let request = CreateJoinTokenRequest { ttl: 60, token: String::new(), agent_id };
        let (code, message) = refusal(admin.agents().create_join_token(request).await);
        assert_eq!(code, Code::FailedPrecondition);
        assert!(message.starts_with("this is box box-1: "), "{message}");
    }
}

#[tokio::test]
async fn nodes_are_listed_banned_and_deleted() {
    let admin = admin(Place::cloud()).await;
    for node in ["a", "b", "c"] {
        let token = admin
            .issuer
            .create_join_token(crate::place::HOUR, None, Some(id(&format!("/edge/{node}"))))
            .await;
        admin.issuer.redeem(&token.unwrap().token, &csr(None).1, None).await.unwrap();
    }
    let mut agents = admin.agents();
    let request = ListAgentsRequest { page_size: 2, ..Default::default() };
    let first = agents.list_agents(request).await.unwrap().into_inner();
    let request = ListAgentsRequest { page_token: first.next_page_token, ..Default::default() };
    let rest = agents.list_agents(request).await.unwrap().into_inner().agents;
    assert_eq!((first.agents.len(), rest.len(), rest[0].id.clone()), (2, 1, Some(api_id("/edge/c"))));
    assert_eq!(first.agents[0].attestation_type, "join_token");
    let serial: u128 = first.agents[0].x509svid_serial_number.parse().unwrap();
    assert!(serial > 0);

    agents.ban_agent(BanAgentRequest { id: Some(api_id("/edge/a")) }).await.unwrap();
    let request = GetAgentRequest { id: Some(api_id("/edge/a")), output_mask: None };
    let shown = agents.get_agent(request).await.unwrap().into_inner();
    assert!(shown.banned && shown.x509svid_serial_number.is_empty());
    let filter = Some(list_agents_request::Filter { by_banned: Some(true), ..Default::default() });
    let banned =
        agents.list_agents(ListAgentsRequest { filter, ..Default::default() }).await.unwrap().into_inner();
    assert_eq!(banned.agents.len(), 1);

    agents.delete_agent(DeleteAgentRequest { id: Some(api_id("/edge/a")) }).await.unwrap();
    let again = agents.delete_agent(DeleteAgentRequest { id: Some(api_id("/edge/a")) }).await;
    assert_eq!(refusal(again), (Code::NotFound, "agent not found".to_owned()));
    let ban = agents.ban_agent(BanAgentRequest { id: Some(api_id("/edge/a")) }).await;
    assert_eq!(refusal(ban), (Code::NotFound, "agent not found".to_owned()));
    let count = agents.count_agents(CountAgentsRequest { filter: None }).await.unwrap().into_inner().count;
    assert_eq!(count, 2);
}

#[tokio::test]
async fn the_bundle_is_shown_and_others_are_not_found() {
    let admin = admin(Place::cloud()).await;
    let mut bundles = admin.bundles();
    let bundle = bundles.get_bundle(GetBundleRequest { output_mask: None }).await.unwrap().into_inner();
    let roots: Vec<Vec<u8>> = bundle.x509_authorities.into_iter().map(|root| root.asn1).collect();
    assert_eq!((bundle.trust_domain.as_str(), roots), ("plant.example", admin.issuer.roots()));
    assert_eq!(bundle.sequence_number, admin.issuer.bundles().revision());
    let output_mask = Some(types::BundleMask { sequence_number: true, ..Default::default() });
    let masked = bundles.get_bundle(GetBundleRequest { output_mask }).await.unwrap().into_inner();
    assert!(masked.x509_authorities.is_empty() && masked.sequence_number > 0);

    let count = bundles.count_bundles(CountBundlesRequest {}).await.unwrap().into_inner().count;
    assert_eq!(count, 1);
    let listed = bundles.list_federated_bundles(ListFederatedBundlesRequest::default()).await.unwrap();
    assert!(listed.into_inner().bundles.is_empty());
    let get = async |name: &str| {
        let request = GetFederatedBundleRequest { trust_domain: name.to_owned(), output_mask: None };
        refusal(admin.bundles().get_federated_bundle(request).await).0
    };
    assert_eq!(get("elsewhere").await, Code::NotFound);
    assert_eq!(get("plant.example").await, Code::InvalidArgument);
    assert_eq!(get("a b").await, Code::InvalidArgument);
}

#[tokio::test]
async fn svids_are_minted() {
    let admin = admin(Place::cloud()).await;
    let mint = async |csr: Vec<u8>, ttl: i32| {
        let mut client = SvidClient::new(admin.channel.clone());
        client.mint_x509svid(MintX509svidRequest { csr, ttl }).await.map(|response| response.into_inner())
    };
    let svid = mint(csr(Some("/by/hand")).1, 120).await.unwrap().svid.unwrap();
    assert_eq!((svid.id, svid.expires_at), (Some(api_id("/by/hand")), 1_700_000_120));
    assert_eq!(*verify(&admin.issuer, &svid.cert_chain).id(), id("/by/hand"));
    let svid = mint(csr(Some("/by/hand")).1, 0).await.unwrap().svid.unwrap();
    assert_eq!(svid.expires_at, 1_700_003_600);

    assert_eq!(refusal(mint(Vec::new(), 0).await), (Code::InvalidArgument, "missing CSR".to_owned()));
    assert!(refusal(mint(b"junk".to_vec(), 0).await).1.starts_with("malformed CSR: "));
    assert_eq!(
        refusal(mint(csr(None).1, 0).await),
        (Code::InvalidArgument, "CSR URI SAN is required".to_owned())
    );
    assert!(refusal(mint(csr(Some("/spire/server")).1, 0).await).1.starts_with("CSR URI SAN is invalid: "));
}
