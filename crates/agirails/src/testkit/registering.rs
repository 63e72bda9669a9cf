//! The agent registry (AIP-7).
#![expect(missing_docs, reason = "a scenario's name says what it protects")]

use alloy_primitives::{Address, B256, keccak256};

use super::{
    Stage,
    scenario::{Scene, USDC, failed, refused, words},
};
use crate::{
    client::RegistryClient,
    error::{Code, Error, Result},
    kernel::AgentQuery,
    protocol::{
        Refusal, State, Usdc,
        registry::{AgentProfile, ServiceDescriptor},
    },
};

const URL: &str = "https://provider.example/a2a";

fn registry(play: &Scene<'_>, agent: Address) -> Result<RegistryClient> {
    play.client(agent).registry().ok_or_else(|| Error::from(Refusal::NotRegistered))
}

/// A service type that nobody else on this stage offers.
fn own_type(play: &Scene<'_>, suffix: &str) -> String {
    format!("t{:x}{suffix}", play.requester)
}

fn services(types: &[&str]) -> Result<Vec<ServiceDescriptor>> {
    types.iter().map(|name| Ok(ServiceDescriptor::new(name)?)).collect()
}

fn addresses(agents: &[AgentProfile]) -> Vec<Address> {
    agents.iter().map(|agent| agent.agent_address).collect()
}

pub async fn a_registered_agent_is_found(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let agent = registry(&play, play.provider)?;
    let (main, other) = (own_type(&play, ""), own_type(&play, "-b"));
    assert_eq!(agent.get_agent(play.provider).await?, None);
    assert_eq!(agent.get_service_descriptors(play.provider).await?, []);
    assert!(!agent.supports_service(play.provider, &main).await?);

    let offered = [
        ServiceDescriptor {
            schema_uri: "ipfs://schema".to_owned(),
            avg_completion_time_seconds: 3,
            metadata_cid: "bafy".to_owned(),
            ..ServiceDescriptor::new(&main)?.with_price(Usdc(100_000), Usdc(5_000_000))
        },
        ServiceDescriptor::new(&other)?,
    ];
    let since = play.now().await?;
    agent.register_agent(URL, &offered).await?;

    let profile = agent.get_agent(play.provider).await?;
    let registered_at = profile.as_ref().map_or(0, |agent| agent.registered_at);
    assert!((since..=play.now().await?).contains(&registered_at));
    let chain_id = play.kernel.network().chain_id;
    let expected = AgentProfile {
        agent_address: play.provider,
        did: format!("did:ethr:{chain_id}:{:#x}", play.provider),
        endpoint: URL.to_owned(),
        service_types: vec![keccak256(&main), keccak256(&other)],
        staked_amount: Usdc(0),
        reputation_score: 0,
        total_transactions: 0,
        disputed_transactions: 0,
        total_volume: Usdc(0),
        registered_at,
        updated_at: registered_at,
        is_active: true,
        config_hash: B256::ZERO,
        config_cid: String::new(),
        listed: false,
    };
    assert_eq!(profile, Some(expected.clone()));
    assert_eq!(agent.get_agent_by_did(&expected.did).await?, Some(expected.clone()));
    let elsewhere = format!("did:ethr:{}:{:#x}", chain_id + 1, play.provider);
    assert_eq!(agent.get_agent_by_did(&elsewhere).await?, None);
    assert_eq!(agent.get_service_descriptors(play.provider).await?, offered);
    for service in [&main, &other] {
        assert!(agent.supports_service(play.provider, service).await?);
        assert_eq!(agent.get_agents_by_service(service).await?, std::slice::from_ref(&expected));
    }
    assert!(!agent.supports_service(play.provider, &own_type(&play, "-c")).await?);
    assert_eq!(agent.get_agents_by_service(&own_type(&play, "-c")).await?, []);
    Ok(())
}

pub async fn an_agent_changes_its_profile(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let agent = registry(&play, play.provider)?;
    let main = own_type(&play, "");
    agent.register_agent(URL, &services(&[&main])?).await?;
    let profile = async || -> Result<AgentProfile> {
        agent.get_agent(play.provider).await?.ok_or_else(|| Refusal::NotRegistered.into())
    };
    let old = profile().await?;
    stage.advance(10).await?;

    agent.update_endpoint("https://elsewhere.example").await?;
    let endpoint = "https://elsewhere.example".to_owned();
    let new = profile().await?;
    assert!(new.updated_at >= old.updated_at + 10);
    assert_eq!(new, AgentProfile { endpoint, updated_at: new.updated_at, ..old });

    agent.set_active_status(false).await?;
    assert!(!profile().await?.is_active);
    assert_eq!(agent.get_agents_by_service(&main).await?, []);
    assert!(agent.supports_service(play.provider, &main).await?);
    agent.set_active_status(true).await?;
    assert_eq!(addresses(&agent.get_agents_by_service(&main).await?), [play.provider]);

    agent.update_endpoint(&"x".repeat(256)).await?;
    refused(agent.update_endpoint("").await, Refusal::EmptyEndpoint);
    refused(agent.update_endpoint(&"x".repeat(257)).await, Refusal::EndpointTooLong);
    let stranger = registry(&play, play.stranger)?;
    for outcome in [
        stranger.update_endpoint("").await,
        stranger.set_active_status(true).await,
        stranger.add_service_type("NO").await,
        stranger.remove_service_type(&main).await,
    ] {
        refused(outcome, Refusal::NotRegistered);
    }
    Ok(())
}

pub async fn services_are_added_and_removed(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let agent = registry(&play, play.provider)?;
    let types: Vec<_> = ["", "-b", "-c", "-d"].map(|suffix| own_type(&play, suffix)).into();
    agent.register_agent(URL, &services(&[&types[0], &types[1], &types[2]])?).await?;
    let offered = async || -> Result<Vec<String>> {
        let found = agent.get_service_descriptors(play.provider).await?;
        let profile = agent.get_agent(play.provider).await?;
        let hashes = profile.map(|agent| agent.service_types).unwrap_or_default();
        assert!(found.iter().map(|service| service.service_type_hash).eq(hashes));
        Ok(found.into_iter().map(|service| service.service_type).collect())
    };
    assert_eq!(offered().await?, types[..3]);

    // The last one takes the gap.
    agent.remove_service_type(&types[0]).await?;
    assert_eq!(offered().await?, [types[2].clone(), types[1].clone()]);
    assert_eq!(agent.get_agents_by_service(&types[0]).await?, []);
    assert!(!agent.supports_service(play.provider, &types[0]).await?);
    refused(agent.remove_service_type(&types[0]).await, Refusal::ServiceNotFound);

    agent.add_service_type(&types[3]).await?;
    agent.add_service_type(&types[0]).await?;
    let expected = [&types[2], &types[1], &types[3], &types[0]].map(String::clone);
    assert_eq!(offered().await?, expected);
    assert_eq!(addresses(&agent.get_agents_by_service(&types[3]).await?), [play.provider]);
    refused(agent.add_service_type(&types[3]).await, Refusal::ServiceAlreadyAdded);

    // Down to nothing, which only a registration refuses.
    for service in &types {
        agent.remove_service_type(service).await?;
    }
    assert_eq!(offered().await?, Vec::<String>::new());
    agent.add_service_type(&types[0]).await?;
    Ok(())
}

pub async fn queries_come_in_the_order_of_registration_and_in_pages(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let main = own_type(&play, "");
    let mut agents = vec![];
    for _ in 0..7 {
        let agent = stage.party().await?;
        registry(&play, agent)?.register_agent(URL, &services(&[&main])?).await?;
        agents.push(agent);
    }
    let client = registry(&play, play.stranger)?;
    let service_type_hash = keccak256(&main);
    let query = async |min_reputation, offset, limit| {
        let query = AgentQuery { service_type_hash, min_reputation, offset, limit };
        client.query_agents_by_service(query).await
    };
    assert_eq!(addresses(&query(0, 0, 100).await?), agents);
    assert_eq!(addresses(&client.get_agents_by_service(&main).await?), agents);
    assert_eq!(addresses(&query(0, 0, 3).await?), agents[..3]);
    assert_eq!(addresses(&query(0, 3, 3).await?), agents[3..6]);
    assert_eq!(addresses(&query(0, 6, 3).await?), agents[6..]);
    for offset in [7, 8, u64::MAX] {
        assert_eq!(query(0, offset, 3).await?, []);
    }
    // Who is hidden is no match, so pages close up.
    registry(&play, agents[1])?.set_active_status(false).await?;
    assert_eq!(addresses(&query(0, 1, 2).await?), agents[2..4]);
    // A new agent has no reputation yet.
    for least in [1, 10_000, u64::MAX] {
        assert_eq!(query(least, 0, 100).await?, []);
    }
    for limit in [0, 101, u64::MAX] {
        refused(query(0, 0, limit).await, Refusal::QueryLimit);
    }
    Ok(())
}

pub async fn reputation_follows_settlements(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let agent = registry(&play, play.provider)?;
    let main = own_type(&play, "");
    // What settled before a registration is not counted.
    play.in_state(State::Settled, USDC).await?;
    agent.register_agent(URL, &services(&[&main])?).await?;
    stage.mint(play.requester, Usdc(200_000 * USDC)).await?;
    // Seven tenths for not being disputed, three tenths by volume.
    for (number, (amount, volume, score)) in [
        (1_000_000, 1_000_000, 7_000),
        (98_999_999, 99_999_999, 7_000),
        (50_000, 100_049_999, 7_750),
        (899_950_000, 999_999_999, 7_750),
        (100_000, 1_000_099_999, 8_500),
        (8_999_900_001, 10_000_000_000, 9_250),
        (89_999_000_000, 99_999_000_000, 9_250),
        (1_000_000, 100_000_000_000, 10_000),
    ]
    .into_iter()
    .enumerate()
    {
        let id = play.in_state(State::Settled, amount).await?;
        let settled_at = play.tx(id).await?.updated_at;
        let Some(profile) = agent.get_agent(play.provider).await? else { continue };
        assert_eq!(profile.total_transactions, number as u64 + 1);
        assert_eq!(profile.disputed_transactions, 0);
        assert_eq!(profile.total_volume, Usdc(volume));
        assert_eq!(profile.reputation_score, score);
        assert_eq!(profile.updated_at, settled_at);
    }
    let service_type_hash = keccak256(&main);
    for (min_reputation, found) in [(0, 1), (7_000, 1), (10_000, 1), (10_001, 0)] {
        let query = AgentQuery { service_type_hash, min_reputation, offset: 0, limit: 1 };
        assert_eq!(agent.query_agents_by_service(query).await?.len(), found);
    }
    // A cancellation is no settlement, and the requester has no reputation to win.
    play.in_state(State::Cancelled, USDC).await?;
    let id = play.in_state(State::Committed, USDC).await?;
    play.step(play.provider, id, State::Cancelled).await?;
    let profile = agent.get_agent(play.provider).await?;
    assert_eq!(profile.map(|agent| agent.total_transactions), Some(8));
    assert_eq!(agent.get_agent(play.requester).await?, None);
    Ok(())
}

pub async fn reputation_remembers_lost_disputes_only(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let agent = registry(&play, play.provider)?;
    agent.register_agent(URL, &services(&[&own_type(&play, "")])?).await?;
    let score = async || -> Result<Option<(u64, u64, u64, Usdc)>> {
        Ok(agent.get_agent(play.provider).await?.map(|agent| {
            let AgentProfile { total_transactions, disputed_transactions, .. } = agent;
            let (score, volume) = (agent.reputation_score, agent.total_volume);
            (total_transactions, disputed_transactions, score, volume)
        }))
    };
    let resolve = async |to, resolution: &[u64]| {
        let id = play.in_state(State::Disputed, USDC).await?;
        play.step_with(play.admin, id, to, &words(resolution)).await
    };
    // Won: not at fault, although the money went back.
    resolve(State::Settled, &[USDC, 0, 0]).await?;
    assert_eq!(score().await?, Some((1, 0, 7_000, Usdc(1_000_000))));
    // Lost, in words and by the short form.
    resolve(State::Settled, &[0, USDC, 1]).await?;
    assert_eq!(score().await?, Some((2, 1, 3_500, Usdc(2_000_000))));
    resolve(State::Settled, &[0, USDC]).await?;
    assert_eq!(score().await?, Some((3, 2, 2_333, Usdc(3_000_000))));
    // A cancelled dispute is no settlement.
    resolve(State::Cancelled, &[USDC, 0]).await?;
    resolve(State::Cancelled, &[USDC, 0, 1]).await?;
    assert_eq!(score().await?, Some((3, 2, 2_333, Usdc(3_000_000))));
    Ok(())
}

pub async fn profiles_are_refused_in_the_registrys_words(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let agent = registry(&play, play.provider)?;
    let main = own_type(&play, "");
    let sound = services(&[&main])?;
    let mut wrong_hash = sound.clone();
    wrong_hash[0].service_type_hash = B256::repeat_byte(1);
    let mut wrong_type = wrong_hash.clone();
    wrong_type[0].service_type = "No".to_owned();
    let many: Vec<_> = vec![wrong_type[0].clone(); 101];

    // Each with what comes later wrong too.
    refused(agent.register_agent("", &[]).await, Refusal::EmptyEndpoint);
    refused(agent.register_agent(&"x".repeat(257), &[]).await, Refusal::EndpointTooLong);
    refused(agent.register_agent(URL, &[]).await, Refusal::NoServices);
    refused(agent.register_agent(URL, &many).await, Refusal::TooManyServices);
    refused(agent.register_agent(URL, &wrong_type).await, Refusal::ServiceTypeUppercase);
    refused(agent.register_agent(URL, &wrong_hash).await, Refusal::HashMismatch);
    assert_eq!(agent.get_agent(play.provider).await?, None);
    agent.register_agent(&"x".repeat(256), &sound).await?;
    refused(agent.register_agent("", &[]).await, Refusal::AlreadyRegistered);

    failed(agent.get_agent_by_did("did:web:example.org").await, Code::InvalidDid);
    Ok(())
}

pub async fn service_types_are_refused_in_the_registrys_words(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let agent = registry(&play, play.provider)?;
    let main = own_type(&play, "");
    agent.register_agent(URL, &services(&[&main])?).await?;
    let (longest, too_long) = ("x".repeat(64), "X".repeat(65));
    for (service_type, word) in [
        ("", Refusal::EmptyServiceType),
        (&too_long, Refusal::ServiceTypeTooLong),
        ("two words", Refusal::ServiceTypeWhitespace),
        ("tab\t", Refusal::ServiceTypeWhitespace),
        ("Upper", Refusal::ServiceTypeUppercase),
        ("under_score", Refusal::ServiceTypeCharacter),
        ("größe", Refusal::ServiceTypeCharacter),
        ("nul\0", Refusal::ServiceTypeCharacter),
        ("two--hyphens", Refusal::ConsecutiveHyphens),
        ("-leading", Refusal::LeadingHyphen),
        ("trailing-", Refusal::TrailingHyphen),
        ("-", Refusal::LeadingHyphen),
        // The first fault that a reader meets.
        ("-A b", Refusal::ServiceTypeUppercase),
        ("- A", Refusal::ServiceTypeWhitespace),
        ("--A", Refusal::ConsecutiveHyphens),
    ] {
        refused(agent.add_service_type(service_type).await, word);
    }
    agent.add_service_type(&longest).await?;
    assert!(agent.supports_service(play.provider, &longest).await?);
    Ok(())
}

pub async fn an_agent_offers_at_most_a_hundred_services(stage: &dyn Stage) -> Result<()> {
    let play = Scene::on(stage).await?;
    let agent = registry(&play, play.provider)?;
    let types: Vec<_> = (0..100).map(|number| own_type(&play, &format!("-{number}"))).collect();
    let offered: Result<Vec<_>> =
        types.iter().map(|name| Ok(ServiceDescriptor::new(name)?)).collect();
    agent.register_agent(URL, &offered?).await?;
    // Before the type itself is looked at.
    refused(agent.add_service_type("No").await, Refusal::ServiceLimitReached);
    agent.remove_service_type(&types[50]).await?;
    agent.add_service_type(&own_type(&play, "")).await?;
    refused(agent.add_service_type(&types[50]).await, Refusal::ServiceLimitReached);
    Ok(())
}

pub async fn a_registry_holds_ten_thousand_agents_and_answers_for_one_thousand(
    stage: &dyn Stage,
) -> Result<()> {
    let play = Scene::on(stage).await?;
    let client = registry(&play, play.stranger)?;
    let main = own_type(&play, "");
    let offered = services(&[&main])?;
    let register = async || {
        let agent = stage.party().await?;
        registry(&play, agent)?.register_agent(URL, &offered).await
    };
    stage.crowd(1_000, URL, &offered).await?;
    assert_eq!(client.get_agents_by_service(&main).await?.len(), 100);
    register().await?;
    let outcome = client.get_agents_by_service(&main).await;
    refused(outcome, Refusal::QueryCapExceeded);
    let query =
        AgentQuery { service_type_hash: B256::ZERO, min_reputation: 0, offset: 0, limit: 0 };
    refused(client.query_agents_by_service(query).await, Refusal::QueryLimit);

    stage.crowd(8_999, URL, &offered).await?;
    refused(register().await, Refusal::RegistryFull);
    // Before the services are looked at, after their number.
    let late = registry(&play, stage.party().await?)?;
    let mut wrong = offered.clone();
    wrong[0].service_type_hash = B256::ZERO;
    refused(late.register_agent(URL, &wrong).await, Refusal::RegistryFull);
    refused(late.register_agent(URL, &[]).await, Refusal::NoServices);
    Ok(())
}
