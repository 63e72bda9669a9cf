//! Finding out, in one round trip, whether the profile, the endpoint and the contracts belong
//! together and speak this version's protocol.

use alloy_primitives::{Address, B256, Bytes, U256};
use serde_json::json;

use super::{
    contracts::{Contract, eas, kernel, multicall, registry, token, vault},
    generation,
    lens::{self, Answer, Read},
    reverts,
    rpc::{Call, Rpc, parse},
};
use crate::{
    error::{Code, Error, Result},
    network::{Network, NetworkProfile},
    protocol::{Refusal, rules::Rates},
};

/// What a network says of itself.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) network: Network,
    /// The rates that new transactions lock.
    pub(super) rates: Rates,
    /// What keeps nobody from reading, or from ending what is under way, and should be known.
    pub(super) warnings: Vec<String>,
}

/// Asks the chain for its id and the contracts for what they are.
///
/// # Errors
/// [`Code::WrongChain`], [`Code::ContractMissing`], [`Code::UnsupportedKernel`],
/// [`Code::InvalidSettings`] where the contracts name others than the profile does, and those of the
/// network.
pub(super) async fn look(rpc: &Rpc, profile: &NetworkProfile) -> Result<Found> {
    let addresses = profile.contracts;
    let at = |role, address| Contract { role, address };
    let core = at("kernel", addresses.actp_kernel);
    let purse = at("vault", addresses.escrow_vault);
    let usdc = at("USDC token", addresses.usdc);
    let mut reads = generation::probes(core).to_vec();
    reads.extend([
        Read::new(core, &kernel::getTransactionCall { transactionId: B256::ZERO }, 4),
        Read::new(core, &kernel::adminCall {}, 1),
        Read::new(core, &kernel::feeRecipientCall {}, 1),
        Read::new(core, &kernel::archiveTreasuryCall {}, 1),
        Read::new(core, &kernel::platformFeeBpsCall {}, 1),
        Read::new(core, &kernel::requesterPenaltyBpsCall {}, 1),
        Read::new(core, &kernel::pausedCall {}, 1),
        Read::new(core, &kernel::USDCCall {}, 1),
        Read::new(core, &kernel::approvedEscrowVaultsCall { vault: purse.address }, 1),
        Read::new(purse, &vault::kernelCall {}, 1),
        Read::new(purse, &vault::tokenCall {}, 1),
        Read::new(usdc, &token::balanceOfCall { owner: purse.address }, 1),
    ]);
    // These only have to be there.
    if let Some(address) = addresses.agent_registry {
        let call = registry::supportsServiceCall {
            agentAddress: Address::ZERO,
            serviceTypeHash: B256::ZERO,
        };
        reads.push(Read::new(at("agent registry", address), &call, 1));
    }
    if let Some(address) = addresses.eas {
        let attestations = at("attestation service (EAS)", address);
        reads.push(Read::new(attestations, &eas::getSchemaRegistryCall {}, 1));
    }
    if let Some(address) = addresses.multicall {
        let nothing = multicall::aggregate3Call { calls: vec![] };
        reads.push(Read::new(at("multicall contract", address), &nothing, 2));
    }

    // Refused by kernels that revoke at once.
    reads.push(Read::new(core, &kernel::pendingVaultRevocationAtCall { vault: purse.address }, 1));

    let calls = [Call::new("eth_chainId", json!([])), lens::call(&reads)];
    let mut outcome = rpc.batch(&calls).await?.into_iter();
    let (Some(chain_id), Some(answers)) = (outcome.next(), outcome.next()) else {
        return Err(lens::strange());
    };
    let chain_id = chain_id.map_err(|refused| reverts::explain(&refused))?;
    check_chain(profile, parse("eth_chainId", &chain_id)?)?;
    let answers = answers.map_err(|refused| reverts::explain(&refused))?;
    let answers = lens::answers(&reads, &parse::<Bytes>("eth_call", &answers)?)?;
    answers.iter().try_for_each(Answer::require_contract)?;
    let Some((
        [
            version,
            grace,
            bond,
            unknown,
            admin,
            fees,
            treasury,
            fee,
            penalty,
            paused,
            coin,
            approved,
            of,
            in_coin,
            held,
        ],
        _,
    )) = answers.split_first_chunk()
    else {
        return Err(lens::strange());
    };

    // One node tells all of it in one answer, or nothing: what is not answered is no generation.
    let generation =
        generation::Found::of([version, grace, bond]).ok_or_else(|| no_kernel(core))?;
    // A contract that names a version of its own need not know these words.
    if !generation.names_itself() && !says_missing(unknown) {
        return Err(no_kernel(core));
    }
    let terms = generation.terms(core)?;
    let strange = |error: Error| no_kernel(core).with_source(error);
    let mut found = Found {
        network: Network {
            name: profile.name.clone(),
            chain_id: profile.chain_id,
            kernel: core.address,
            vault: purse.address,
            usdc: usdc.address,
            admin: admin.decode::<kernel::adminCall>().map_err(strange)?,
            fee_recipient: fees.decode::<kernel::feeRecipientCall>().map_err(strange)?,
            archive_treasury: Some(
                treasury.decode::<kernel::archiveTreasuryCall>().map_err(strange)?,
            )
            .filter(|treasury| *treasury != Address::ZERO),
            agent_registry: addresses.agent_registry,
            eas: addresses.eas,
            bond_escalation: addresses.bond_escalation,
            terms,
        },
        rates: Rates {
            platform_fee_bps: fee.decode::<kernel::platformFeeBpsCall>().map_err(strange)?,
            requester_penalty_bps: penalty
                .decode::<kernel::requesterPenaltyBpsCall>()
                .map_err(strange)?,
            dispute_bond_bps: bond.decode::<kernel::disputeBondBpsCall>().map_err(strange)?,
        },
        warnings: vec![],
    };

    let coin = coin.decode::<kernel::USDCCall>().map_err(strange)?;
    agree("usdc", usdc, ("the kernel", coin))?;
    held.decode::<token::balanceOfCall>().map_err(|error| {
        Error::invalid(
            Code::InvalidSettings,
            "usdc",
            &usdc.address.to_string(),
            "is a contract, but no token",
        )
        .with_hint("check contracts.usdc in the network profile")
        .with_source(error)
    })?;
    // A vault of another make need not tell.
    if let Ok(named) = of.decode::<vault::kernelCall>() {
        agree("actpKernel", core, ("the vault", named))?;
    }
    if let Ok(named) = in_coin.decode::<vault::tokenCall>() {
        agree("usdc", usdc, ("the vault", named))?;
    }

    let network = &profile.name;
    if !approved.decode::<kernel::approvedEscrowVaultsCall>().unwrap_or(true) {
        found.warnings.push(format!(
            "the kernel of {network} does not approve the vault {}: no transaction can be funded, \
             and nothing is paid out",
            purse.address
        ));
    }
    let revoked_from = answers
        .last()
        .and_then(|answer| answer.decode::<kernel::pendingVaultRevocationAtCall>().ok())
        .filter(|from| !from.is_zero());
    if let Some(from) = revoked_from {
        found.warnings.push(format!(
            "the kernel of {network} is to revoke the vault {} from Unix time {from} on: nothing leaves it \
             from then on, so settle before, and fund nothing that can end later",
            purse.address
        ));
    }
    if paused.decode::<kernel::pausedCall>().unwrap_or(false) {
        found.warnings.push(format!(
            "the kernel of {network} is paused: until its operators lift that, nothing is created, \
             funded or delivered"
        ));
    }
    for warning in &found.warnings {
        tracing::warn!(%network, "{warning}");
    }
    Ok(found)
}

fn check_chain(profile: &NetworkProfile, found: U256) -> Result<()> {
    if found == U256::from(profile.chain_id) {
        return Ok(());
    }
    let NetworkProfile { name, chain_id, .. } = profile;
    Err(Error::new(
        Code::WrongChain,
        format!("the RPC endpoint belongs to chain {found}, the network {name:?} is chain {chain_id}"),
    )
    .with_hint(
        "check the RPC URL (BASE_SEPOLIA_RPC, BASE_MAINNET_RPC, or rpcUrl of the network profile), and the profile's chainId",
    ))
}

/// Every kernel answers for an unknown id in the same words.
fn says_missing(unknown: &Answer) -> bool {
    let answer = unknown.decode::<kernel::getTransactionCall>();
    answer.is_err_and(|error| error.refusal() == Some(Refusal::TxMissing))
}

fn no_kernel(core: Contract) -> Error {
    Error::new(
        Code::UnsupportedKernel,
        format!("the contract {} is not an ACTP kernel that this version knows", core.address),
    )
    .with_hint("check contracts.actpKernel in the network profile, or upgrade agirails")
    .with_facts(|facts| facts.value = Some(core.address.to_string()))
}

/// What a contract names must be what the profile names.
fn agree(field: &'static str, named: Contract, (who, other): (&str, Address)) -> Result<()> {
    if named.address == other {
        return Ok(());
    }
    let problem = format!("is not the {} that {who} names, {other}", named.role);
    Err(Error::invalid(Code::InvalidSettings, field, &named.address.to_string(), &problem)
        .with_hint("the network profile mixes contracts of two deployments"))
}
