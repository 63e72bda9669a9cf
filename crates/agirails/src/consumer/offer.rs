//! What a service wants to be paid, read from its 402 or its price page, and which of it this
//! client would pay.

use alloy_primitives::{Address, B256};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;

use super::{
    budget,
    http::{Endpoint, HttpResponse},
};
use crate::{
    error::{Code, Error, Result, shown_words},
    network::Network,
    protocol::{
        Usdc,
        id::parse_address,
        money::{MAX_AMOUNT, MIN_AMOUNT},
        paid_request::{REQUEST_AGREEMENT, TRANSACTION_HEADER},
        rules::{
            DEFAULT_DISPUTE_WINDOW_SECONDS, MAX_DISPUTE_WINDOW_SECONDS, MIN_DISPUTE_WINDOW_SECONDS,
            Rates, way_back,
        },
    },
};

/// The x402 scheme of escrow.
const SCHEME: &str = "actp-escrow";
/// How long a transaction lasts where the service does not say.
const DEFAULT_SECONDS: u64 = 3_600;
/// How long a transaction lasts at most: so long a provider could keep the money waiting.
const LONGEST_SECONDS: u64 = 86_400;
/// What funding and calling take, beside the time that the service asks for.
const SLACK_SECONDS: u64 = 300;
/// The path of a payment's page, as links name it.
const PAYMENT_PAGE: &str = "/api/payments/{txId}";
/// More offers than any service makes.
const MOST_OFFERS: usize = 64;

/// How a transaction is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PaymentKind {
    /// One call takes all of it.
    Single,
    /// Calls are drawn from it until it is used up.
    Prepaid,
}

impl PaymentKind {
    /// The name in offers and bindings: `single` or `prepaid`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Prepaid => "prepaid",
        }
    }
}

/// One way to pay, checked against this client's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) kind: PaymentKind,
    pub(super) provider: Address,
    /// What is put into escrow.
    pub(super) amount: Usdc,
    /// What one call takes of it.
    pub(super) price: Usdc,
    /// How long the transaction lasts, seconds.
    pub(super) lasts: u64,
    /// How much of it must be left for a call.
    pub(super) min_seconds_left: u64,
    pub(super) dispute_window: u64,
    pub(super) signature_required: bool,
    /// The service that the transaction is to be bound to.
    pub(super) service: Option<B256>,
    /// Whether the transaction has to name the request that it pays for.
    pub(super) names_request: bool,
    /// After how many seconds without a call its balance may be ended.
    pub(super) idle_seconds: Option<u64>,
    /// Whether the money could come back without the provider, as long as that has not begun, at the
    /// rates in force.
    pub(super) can_come_back: bool,
}

/// Who would take an offer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payer<'a> {
    pub(super) network: &'a Network,
    pub(super) address: Address,
    pub(super) can_sign: bool,
    /// The id of its mock ledger, on mock.
    pub(super) ledger: Option<&'a str>,
    /// For how many seconds a bundle must be usable.
    pub(super) lasts: Option<u64>,
}

impl Offer {
    /// What one call costs in truth: a bundle may hold fewer calls than its price tells.
    pub(super) fn cost_of_a_call(&self, calls: u64) -> Usdc {
        Usdc(self.price.0.max(self.amount.0.div_ceil(calls.max(1))))
    }
}

/// What a 402 says, in its body and in its header.
fn challenges(response: &HttpResponse) -> impl Iterator<Item = Value> {
    let body = serde_json::from_slice(&response.body).ok();
    let header = || {
        let header = BASE64.decode(response.header("PAYMENT-REQUIRED")?).ok()?;
        serde_json::from_slice(&header).ok()
    };
    body.into_iter().chain(std::iter::once_with(header).flatten())
}

/// The offers of a 402, or none where it makes none that can be read.
pub(super) fn of_challenge(response: &HttpResponse) -> Vec<Value> {
    challenges(response).find_map(|object| accepts(&object)).unwrap_or_default()
}

/// The URL below which a 402 says that the paywall's free routes are. `None` where it does not say
/// so, or names another origin than the one that was called: nobody else is asked about a payment.
pub(super) fn base_of_challenge(response: &HttpResponse, called: &Endpoint) -> Option<String> {
    let named = |object: Value| {
        let links = object.get("links")?;
        let link = |name: &str| links.get(name).and_then(Value::as_str);
        let base = link("base").or_else(|| link("payment")?.strip_suffix(PAYMENT_PAGE));
        base.map(str::to_owned)
    };
    called.base(&challenges(response).find_map(named)?)
}

fn accepts(object: &Value) -> Option<Vec<Value>> {
    let list = object.get("accepts")?.as_array()?;
    (!list.is_empty()).then(|| list.iter().take(MOST_OFFERS).cloned().collect())
}

/// The offers of a price page for this request: the route's own, none where its price depends on
/// the request; or the price that stands for all routes, where the page does not know the route.
pub(super) fn of_price_page(
    page: &Value,
    method: &str,
    endpoint: &Endpoint,
    base: &str,
) -> Vec<Value> {
    // The page names routes without the prefix that a proxy takes away.
    let prefix = base.strip_prefix(&*endpoint.origin).unwrap_or_default();
    let path = endpoint.path.strip_prefix(prefix).unwrap_or(&endpoint.path);
    let names = [format!("{method} {path}"), path.to_owned()];
    let routes = page.get("routes").and_then(Value::as_array);
    let route = routes.into_iter().flatten().find(|route| {
        let name = route.get("route").and_then(Value::as_str);
        name.is_some_and(|name| names.iter().any(|known| known == name))
    });
    if let Some(route) = route {
        return accepts(route).unwrap_or_default();
    }
    let per_call = page.pointer("/pricing/perCall").and_then(Value::as_str);
    let amount = per_call.and_then(|text| text.trim().trim_end_matches("USDC").trim().parse().ok());
    let (Some(Usdc(amount)), Some(provider)) = (amount, page.get("provider")) else {
        return vec![];
    };
    let text = |name: &str| page.get(name).and_then(Value::as_str).unwrap_or_default();
    // The documented page names a network, or only a mode.
    let name = match text("network") {
        "" => text("mode"),
        name => name,
    };
    vec![serde_json::json!({
        "scheme": SCHEME, "network": name, "amount": amount.to_string(), "payTo": provider,
    })]
}

/// Whether a page is that of a service without a paywall of ours: it asks for payments, and does
/// not name its routes, each of which would have answered 402 by itself.
pub(super) fn is_bare_price_page(page: &Value) -> bool {
    let header = page.pointer("/payment/header").and_then(Value::as_str).unwrap_or_default();
    header.eq_ignore_ascii_case(TRANSACTION_HEADER) && page.get("routes").is_none()
}

/// What a client could pay of what a service offers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Usable {
    /// Each with the number of calls that it holds.
    pub(super) offers: Vec<(Offer, u64)>,
    /// What is wrong with the others.
    pub(super) problems: Vec<String>,
}

impl Usable {
    /// The error of a choice, with what is wrong with the offers that there was no choice of.
    pub(super) fn explain(&self, error: Error) -> Error {
        match error.hint() {
            Some(hint) if !self.problems.is_empty() => {
                let hint = format!("{hint}; of another offer: {}", self.problems.join("; "));
                error.with_hint(hint)
            }
            _ => error,
        }
    }
}

/// Those of the offers that are for this network, this money and these contracts.
///
/// # Errors
/// [`Code::NoOffer`], with the reason against each, where none is.
pub(super) fn usable(offers: &[Value], payer: Payer<'_>) -> Result<Usable> {
    let (mut good, mut problems) = (vec![], vec![]);
    for offer in offers {
        match read(offer, payer) {
            Ok(offer) => good.push(offer),
            Err(problem) => {
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
        }
    }
    if good.is_empty() {
        let why = match problems.is_empty() {
            true => "its answer holds no offer".to_owned(),
            false => shown_words(&problems.join("; ")),
        };
        let message =
            format!("the service wants to be paid in a way that this client cannot pay: {why}");
        let hint = match problems.iter().any(|problem| problem.starts_with(OTHER_LEDGER)) {
            true => "the service and this client keep their mock state in different directories: \
                     give both the same one, by state_directory or ACTP_STATE_DIR"
                .to_owned(),
            false => format!(
                "this client pays escrowed USDC on {} (chain {}); is it the network that the \
                 service is on?",
                payer.network.name, payer.network.chain_id
            ),
        };
        return Err(Error::new(Code::NoOffer, message).with_hint(hint));
    }
    Ok(Usable { offers: good, problems })
}

const OTHER_LEDGER: &str = "its mock ledger";

fn read(offer: &Value, payer: Payer<'_>) -> Result<(Offer, u64), String> {
    let network = payer.network;
    let text = |name: &str| offer.get(name).and_then(Value::as_str).unwrap_or_default();
    let extra = offer.get("extra").unwrap_or(&Value::Null);
    let more = |name: &str| extra.get(name).filter(|value| !value.is_null());
    let units = |name: &str, value: &Value| -> Result<Usdc, String> {
        let number = match value {
            Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().ok()
            }
            number => number.as_u64(),
        };
        number.map(Usdc).ok_or_else(|| format!("its {name} must be a number of base units"))
    };
    if text("scheme") != SCHEME {
        return Err("its scheme must be actp-escrow".to_owned());
    }
    let on = text("network");
    let is_ours = on == format!("eip155:{}", network.chain_id)
        || on == network.name
        || match on {
            "testnet" => payer.ledger.is_none() && !network.is_mainnet(),
            "mainnet" => network.is_mainnet(),
            _ => false,
        };
    if !is_ours {
        return Err(format!("its network is {}", shown_words(on)));
    }
    if let (Some(ours), Some(theirs)) = (payer.ledger, more("ledger"))
        && theirs.as_str() != Some(ours)
    {
        let theirs = shown_words(theirs.as_str().unwrap_or_default());
        return Err(format!("{OTHER_LEDGER} is {theirs}, and this client's is {ours}"));
    }
    let same = |name: &str, value: Option<&Value>, ours: Address| match value {
        None => Ok(()),
        Some(value) => match value.as_str().and_then(|text| parse_address("", text).ok()) {
            Some(theirs) if theirs == ours => Ok(()),
            _ => Err(format!("its {name} must be this network's, {ours}")),
        },
    };
    same("token", offer.get("asset").filter(|value| !value.is_null()), network.usdc)?;
    same("kernel", more("kernel"), network.kernel)?;
    same("vault", more("vault"), network.vault)?;
    let provider = parse_address("payTo", text("payTo"))
        .map_err(|_| "its payTo must be an address".to_owned())?;
    if provider == Address::ZERO || provider == payer.address {
        return Err(format!("its payTo must not be {provider}: nobody can pay that address"));
    }
    let amount = units("amount", offer.get("amount").unwrap_or(&Value::Null))?;
    let kind = match more("kind").map(|kind| kind.as_str().unwrap_or_default()) {
        None | Some("single") => PaymentKind::Single,
        Some("prepaid") => PaymentKind::Prepaid,
        Some(other) => {
            return Err(format!(
                "its kind must be single or prepaid, and is {}",
                shown_words(other)
            ));
        }
    };
    let price = match (kind, more("pricePerCall")) {
        // One call takes all of it, whatever else is said.
        (PaymentKind::Single, _) => amount,
        (_, Some(price)) => units("price per call", price)?,
        (_, None) => return Err("its bundle must name a price per call".to_owned()),
    };
    let calls = match kind {
        PaymentKind::Single => 1,
        PaymentKind::Prepaid => {
            let calls = more("calls").and_then(Value::as_u64).filter(|calls| *calls > 0);
            calls.ok_or_else(|| "its bundle must hold calls".to_owned())?
        }
    };
    if amount < MIN_AMOUNT || amount > MAX_AMOUNT {
        return Err(format!("its amount of {amount} USDC is outside what a transaction can hold"));
    }
    if price == Usdc::ZERO || amount < price {
        return Err("its price per call must be above zero and at most its amount".to_owned());
    }
    let seconds = |value: Option<&Value>, default: u64| value.map_or(Some(default), Value::as_u64);
    let min_seconds_left = seconds(more("minSecondsLeft"), 0)
        .filter(|seconds| *seconds <= LONGEST_SECONDS - SLACK_SECONDS)
        .ok_or_else(|| "its transactions would have to last longer than a day".to_owned())?;
    let asked = offer.get("maxTimeoutSeconds").and_then(Value::as_u64).unwrap_or(DEFAULT_SECONDS);
    let dispute_window = seconds(more("disputeWindowSeconds"), DEFAULT_DISPUTE_WINDOW_SECONDS)
        .unwrap_or(DEFAULT_DISPUTE_WINDOW_SECONDS)
        // A window that is too short for a look at the answer protects nobody.
        .clamp(MIN_DISPUTE_WINDOW_SECONDS, MAX_DISPUTE_WINDOW_SECONDS);
    let signature_required = more("signature").and_then(Value::as_str) == Some("required");
    if signature_required && !payer.can_sign {
        return Err("its requests must be signed, and this client has no key".to_owned());
    }
    let latest = more("maxDeadlineSeconds").and_then(Value::as_u64).unwrap_or(u64::MAX);
    if latest < min_seconds_left + SLACK_SECONDS {
        return Err("its transactions would have to end before a call could be made".to_owned());
    }
    let idle_seconds = more("idleCloseSeconds").and_then(Value::as_u64);
    // What may be ended when nobody has used it for a while is there for no longer.
    let usable_seconds =
        asked.min(latest).saturating_sub(min_seconds_left).min(idle_seconds.unwrap_or(u64::MAX));
    let lasts = match payer.lasts.filter(|_| kind == PaymentKind::Prepaid) {
        Some(wanted) if wanted > usable_seconds => {
            return Err(format!(
                "its bundle can be used for {usable_seconds} seconds, and lasts is {wanted}"
            ));
        }
        // Funding and the first call take their time too.
        Some(wanted) => (min_seconds_left + wanted).max(min_seconds_left + SLACK_SECONDS),
        None => asked.clamp(min_seconds_left + SLACK_SECONDS, LONGEST_SECONDS).min(latest),
    };
    let lasts = lasts.max(network.terms.least_lifetime_seconds());
    if lasts > latest {
        return Err(format!(
            "its transactions would have to end within {latest} seconds, and this network takes none \
             that end within {lasts}"
        ));
    }
    let service = match more("serviceHash").map(|hash| hash.as_str().and_then(parse_service)) {
        None => None,
        Some(Some(service)) => Some(service),
        Some(None) => return Err("its serviceHash must be 32 bytes in hex".to_owned()),
    };
    let names_request = match more("agreement").map(Value::as_str) {
        None => false,
        Some(Some(REQUEST_AGREEMENT)) if kind == PaymentKind::Single => true,
        Some(_) => {
            return Err("it asks for an agreement that this version does not know".to_owned());
        }
    };
    if names_request && !network.terms.takes_agreements() {
        return Err("it asks for an agreement, and this network's kernel keeps none".to_owned());
    }
    let way_back = way_back(network.terms, amount, Rates::default());
    let offer = Offer {
        kind,
        provider,
        amount,
        price,
        lasts,
        min_seconds_left,
        dispute_window,
        signature_required,
        service,
        names_request,
        idle_seconds,
        can_come_back: way_back.cancellation_penalty.is_some(),
    };
    Ok((offer, calls))
}

fn parse_service(text: &str) -> Option<B256> {
    text.strip_prefix("0x")?.parse().ok()
}

/// The limits that a caller set for one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// What a call may cost.
    pub(super) amount: Usdc,
    /// What the budget lets any call cost.
    pub(super) per_call: Option<Usdc>,
    /// What may be put into escrow for it.
    pub(super) funding: Usdc,
}

impl Limits {
    fn allow(&self, cost: Usdc) -> bool {
        cost <= self.amount && self.per_call.is_none_or(|limit| cost <= limit)
    }

    /// The error of a call that costs so much at least, naming the limit that is in its way.
    fn exceeded(&self, cost: Usdc) -> Error {
        match self.per_call {
            Some(limit) if cost <= self.amount => budget::above_per_call(cost, limit),
            _ => {
                let amount = self.amount;
                let message = format!("a call costs {cost} USDC, and max_amount is {amount}");
                Error::new(Code::PriceAboveLimit, message)
                    .with_hint(
                        "pass a greater max_amount if the call is worth it; nothing was paid",
                    )
                    .with_facts(|facts| {
                        facts.field = Some("max_amount");
                        facts.required = Some(cost);
                        facts.available = Some(amount);
                    })
            }
        }
    }
}

/// The offer to take: single where the money could come back or the provider is trusted, else a
/// bundle that is great enough.
///
/// # Errors
/// [`Code::PriceAboveLimit`], [`Code::BudgetExceeded`] and [`Code::UntrustedProvider`].
pub(super) fn choose(
    offers: &[(Offer, u64)],
    limits: Limits,
    is_trusted: impl Fn(Address) -> bool,
) -> Result<Offer> {
    let affordable: Vec<_> =
        offers.iter().filter(|(offer, calls)| limits.allow(offer.cost_of_a_call(*calls))).collect();
    if affordable.is_empty() {
        let least = offers.iter().map(|(offer, calls)| offer.cost_of_a_call(*calls)).min();
        return Err(limits.exceeded(least.unwrap_or_default()));
    }
    let is_safe = |offer: &Offer| is_trusted(offer.provider) || offer.can_come_back;
    // Single before bundles, cheap before dear.
    let mut wanted: Vec<_> =
        affordable.iter().map(|(offer, _)| offer).filter(|offer| is_safe(offer)).collect();
    wanted.sort_by_key(|offer| (offer.kind != PaymentKind::Single, offer.amount));
    if let Some(offer) = wanted.iter().find(|offer| offer.amount <= limits.funding) {
        return Ok((**offer).clone());
    }
    let greatest = affordable.iter().map(|(offer, _)| offer).max_by_key(|offer| offer.amount);
    let Some(greatest) = greatest else { return Err(Error::new(Code::NoOffer, "no offer")) };
    match wanted.first() {
        Some(offer) if affordable.iter().all(|(offer, _)| is_safe(offer)) => {
            let amount = offer.amount;
            let message =
                format!("{amount} USDC would be locked up, and max_funding is {}", limits.funding);
            Err(Error::new(Code::PriceAboveLimit, message)
                .with_hint("pass a greater max_funding; nothing was paid")
                .with_facts(|facts| {
                    facts.field = Some("max_funding");
                    facts.required = Some(amount);
                    facts.available = Some(limits.funding);
                }))
        }
        bundle => Err(untrusted(greatest, bundle.copied(), limits)),
    }
}

/// The trap in words, and the ways out of it.
fn untrusted(offer: &Offer, bundle: Option<&Offer>, limits: Limits) -> Error {
    let (provider, amount) = (offer.provider, bundle.map_or(offer.amount, |bundle| bundle.amount));
    let message = format!(
        "the provider {provider} is not trusted, and a funded transaction below 1 USDC can never \
         be cancelled by its payer: if the provider did nothing, the money would stay locked"
    );
    let bundle = match bundle {
        Some(bundle) => format!(
            "raise max_funding (now {}) to {}, which buys the bundle that the service offers and \
             that you could cancel",
            limits.funding, bundle.amount
        ),
        None => "ask the service for a bundle of 1 USDC or more, which you could cancel".to_owned(),
    };
    Error::new(Code::UntrustedProvider, message)
        .with_hint(format!(
            "trust the provider, by its address or by the service's origin; or {bundle}; or call \
             another service; nothing was paid"
        ))
        .with_facts(|facts| {
            facts.field = Some("provider");
            facts.value = Some(provider.to_string());
            facts.required = Some(amount);
            facts.available = Some(limits.funding);
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    const PAYER: Address = Address::repeat_byte(1);
    const PROVIDER: Address = Address::repeat_byte(2);

    fn payer(network: &Network) -> Payer<'_> {
        Payer { network, address: PAYER, can_sign: true, ledger: Some("ours"), lasts: None }
    }

    fn single(amount: u64) -> Value {
        let network = Network::mock();
        json!({
            "scheme": "actp-escrow", "network": "eip155:31337", "amount": amount.to_string(),
            "asset": network.usdc, "payTo": PROVIDER, "maxTimeoutSeconds": 3_600,
            "extra": {"kind": "single", "pricePerCall": amount.to_string(), "calls": 1,
                "kernel": network.kernel, "vault": network.vault, "signature": "optional",
                "minSecondsLeft": 120, "disputeWindowSeconds": 172_800},
        })
    }

    fn prepaid(price: u64, calls: u64) -> Value {
        let mut offer = single(price * calls);
        offer["extra"]["kind"] = "prepaid".into();
        offer["extra"]["pricePerCall"] = price.to_string().into();
        offer["extra"]["calls"] = calls.into();
        offer
    }

    fn take(offers: &[Value], limits: (u64, u64), trusted: bool) -> Result<Offer> {
        let usable = usable(offers, payer(&Network::mock()))?;
        let limits = Limits { amount: Usdc(limits.0), per_call: None, funding: Usdc(limits.1) };
        choose(&usable.offers, limits, |_| trusted)
    }

    #[test]
    fn a_cheap_call_is_bought_alone_only_from_whom_one_trusts() {
        let offers = [single(100_000), prepaid(100_000, 10)];
        let kind = |limits, trusted| take(&offers, limits, trusted).map(|offer| offer.kind);
        assert_eq!(kind((100_000, 1_000_000), true), Ok(PaymentKind::Single));
        assert_eq!(kind((100_000, 1_000_000), false), Ok(PaymentKind::Prepaid));
        let error = kind((100_000, 999_999), false).unwrap_err();
        assert_eq!(error.code(), Code::UntrustedProvider);
        assert_eq!(error.facts().required, Some(Usdc(1_000_000)));
        assert!(error.hint().unwrap().contains("max_funding"), "{error:#}");
        let error = take(&offers[..1], (100_000, 1_000_000), false).unwrap_err();
        assert_eq!(error.code(), Code::UntrustedProvider);
        assert!(error.to_string().contains("never be cancelled"), "{error}");
        // From 1 USDC on the requester can help itself.
        assert_eq!(
            take(&[single(1_000_000)], (1_000_000, 1_000_000), false).unwrap().kind,
            PaymentKind::Single
        );
    }

    #[test]
    fn a_price_above_the_limit_is_refused_however_it_is_dressed_up() {
        let mut dressed = prepaid(100_000, 10);
        dressed["extra"]["calls"] = 2.into();
        for offer in [single(250_001), prepaid(250_001, 4), dressed] {
            let error = take(&[offer], (250_000, 10_000_000), true).unwrap_err();
            assert_eq!(error.code(), Code::PriceAboveLimit, "{error}");
        }
        let mut dressed = single(500_000);
        dressed["extra"]["pricePerCall"] = "1".into();
        assert!(take(&[dressed], (250_000, 10_000_000), true).is_err());
        let error = take(&[prepaid(100_000, 100)], (100_000, 1_000_000), true).unwrap_err();
        assert_eq!(error.facts().field, Some("max_funding"));
    }

    #[test]
    fn the_budget_per_call_looks_through_the_same_dress_and_lets_another_offer_pass() {
        let mut dressed = prepaid(1_000_000, 1);
        dressed["extra"]["pricePerCall"] = "1".into();
        let take = |offers: &[Value], amount: u64| {
            let usable = usable(offers, payer(&Network::mock()))?;
            let per_call = Some(Usdc(250_000));
            let limits = Limits { amount: Usdc(amount), per_call, funding: Usdc(1_000_000) };
            choose(&usable.offers, limits, |_| true)
        };
        let error = take(std::slice::from_ref(&dressed), 1_000_000).unwrap_err();
        assert_eq!((error.code(), error.facts().field), (Code::BudgetExceeded, Some("per_call")));
        let error = take(std::slice::from_ref(&dressed), 999_999).unwrap_err();
        assert_eq!(
            (error.code(), error.facts().field),
            (Code::PriceAboveLimit, Some("max_amount"))
        );
        let offers = [single(300_000), dressed, prepaid(100_000, 10)];
        assert_eq!(take(&offers, 1_000_000).unwrap().price, Usdc(100_000));
    }

    #[test]
    fn an_offer_of_another_network_or_contract_is_never_paid() {
        let change = |path: &str, value: Value| {
            let mut offer = single(1_000_000);
            *offer.pointer_mut(path).unwrap() = value;
            offer
        };
        let other = json!(Address::repeat_byte(9));
        let bad = [
            change("/scheme", json!("exact")),
            change("/network", json!("eip155:8453")),
            change("/asset", other.clone()),
            change("/extra/kernel", other.clone()),
            change("/extra/vault", other),
            change("/payTo", json!(Address::ZERO)),
            change("/payTo", json!(PAYER)),
            change("/payTo", json!("me")),
            change("/amount", json!("-1")),
            change("/amount", json!("1e6")),
            change("/amount", json!(0)),
            change("/amount", json!("99999999999999999999999")),
            change("/extra/kind", json!("tip")),
            change("/extra/minSecondsLeft", json!(1_000_000)),
            json!(null),
            json!([]),
        ];
        for offer in bad {
            let error = take(std::slice::from_ref(&offer), (u64::MAX, u64::MAX), true).unwrap_err();
            assert_eq!(error.code(), Code::NoOffer, "{offer}");
        }
        let mut signed = single(1_000_000);
        signed["extra"]["signature"] = "required".into();
        let network = Network::mock();
        let keyless = Payer { can_sign: false, ..payer(&network) };
        assert!(usable(&[signed.clone()], keyless).is_err());
        assert!(usable(&[signed], payer(&network)).is_ok());
    }

    #[test]
    fn times_are_held_within_bounds() {
        let mut offer = single(1_000_000);
        offer["maxTimeoutSeconds"] = u64::MAX.into();
        offer["extra"]["disputeWindowSeconds"] = 1.into();
        let taken = take(std::slice::from_ref(&offer), (u64::MAX, u64::MAX), true).unwrap();
        assert_eq!((taken.lasts, taken.dispute_window), (86_400, 3_600));
        offer["maxTimeoutSeconds"] = 1.into();
        assert_eq!(take(&[offer], (u64::MAX, u64::MAX), true).unwrap().lasts, 420);
    }

    #[test]
    fn a_bundle_lasts_as_long_as_its_buyer_wants_or_is_not_bought() {
        let network = Network::mock();
        let mut offer = prepaid(100_000, 10);
        offer["maxTimeoutSeconds"] = 7_320.into();
        let lasts = |offer: &Value, seconds| {
            let payer = Payer { lasts: Some(seconds), ..payer(&network) };
            usable(std::slice::from_ref(offer), payer).map(|usable| usable.offers[0].0.lasts)
        };
        assert_eq!(lasts(&offer, 7_200), Ok(7_320));
        assert_eq!(lasts(&offer, 1), Ok(420));
        let error = lasts(&offer, 7_201).unwrap_err();
        assert_eq!(error.code(), Code::NoOffer);
        assert!(error.to_string().contains("for 7200 seconds, and lasts is 7201"), "{error}");
        for (name, seconds) in [("maxDeadlineSeconds", 3_720), ("idleCloseSeconds", 3_600)] {
            let mut shorter = offer.clone();
            shorter["extra"][name] = seconds.into();
            assert_eq!(lasts(&shorter, 3_600), Ok(3_720));
            assert!(lasts(&shorter, 3_601).is_err());
        }
        offer["extra"]["maxDeadlineSeconds"] = 419.into();
        assert!(lasts(&offer, 1).is_err());
    }

    #[test]
    fn another_mock_ledger_is_named_as_the_cause() {
        let network = Network::mock();
        let mut offer = single(1_000_000);
        offer["extra"]["ledger"] = "theirs".into();
        let error = usable(std::slice::from_ref(&offer), payer(&network)).unwrap_err();
        assert_eq!(error.code(), Code::NoOffer);
        assert!(error.hint().unwrap().contains("ACTP_STATE_DIR"), "{error:#}");
        offer["extra"]["ledger"] = "ours".into();
        assert!(usable(&[offer], payer(&network)).is_ok());
    }

    #[test]
    fn a_page_that_names_a_mode_is_of_the_networks_of_that_mode() {
        let endpoint = Endpoint::parse("https://a/api/generate").unwrap();
        let page = |mode: &str| {
            let page = json!({
                "provider": PROVIDER, "mode": mode, "pricing": {"perCall": "1 USDC"},
                "payment": {"header": "X-AGIRAILS-TX-ID"},
            });
            assert!(is_bare_price_page(&page));
            of_price_page(&page, "POST", &endpoint, &endpoint.origin)
        };
        let pays = |mode, network: &Network| {
            let ledger = (network.name == "mock").then_some("ours");
            usable(&page(mode), Payer { ledger, ..payer(network) }).is_ok()
        };
        let chain =
            |name: &str, chain_id| Network { name: name.to_owned(), chain_id, ..Network::mock() };
        let (mock, sepolia, mainnet) =
            (Network::mock(), chain("base-sepolia", 84_532), chain("base", 8_453));
        assert!(pays("mock", &mock) && pays("testnet", &sepolia) && pays("mainnet", &mainnet));
        for (mode, network) in [
            ("mock", &sepolia),
            ("mock", &mainnet),
            ("testnet", &mainnet),
            ("testnet", &mock),
            ("mainnet", &sepolia),
            ("", &mock),
        ] {
            assert!(!pays(mode, network), "{mode} {}", network.name);
        }
        assert!(!is_bare_price_page(
            &json!({"payment": {"header": "X-AGIRAILS-TX-ID"}, "routes": []})
        ));
        assert!(!is_bare_price_page(&json!({"pricing": {"perCall": "1"}})));
    }

    #[test]
    fn a_price_page_tells_what_a_bare_402_does_not() {
        let endpoint = Endpoint::parse("https://a/api/generate?x=1").unwrap();
        let page = json!({
            "provider": PROVIDER, "network": "mock",
            "pricing": {"perCall": "0.10 USDC", "currency": "USDC", "decimals": 6},
        });
        let offers = of_price_page(&page, "POST", &endpoint, &endpoint.origin);
        assert_eq!(take(&offers, (100_000, 100_000), true).unwrap().amount, Usdc(100_000));
        let page =
            json!({"routes": [{"route": "POST /api/generate", "accepts": [single(7_000_000)]}]});
        assert_eq!(of_price_page(&page, "POST", &endpoint, &endpoint.origin).len(), 1);
        assert_eq!(of_price_page(&page, "GET", &endpoint, &endpoint.origin).len(), 0);
        // Behind a prefix the page names routes without it.
        let behind = Endpoint::parse("https://a/shop/api/generate").unwrap();
        assert_eq!(of_price_page(&page, "POST", &behind, "https://a/shop").len(), 1);
        assert_eq!(of_price_page(&page, "POST", &behind, "https://a").len(), 0);
    }

    #[test]
    fn a_route_without_a_price_of_its_own_is_not_offered_at_another_routes() {
        let endpoint = Endpoint::parse("https://a/api/generate").unwrap();
        let page = json!({
            "provider": PROVIDER, "network": "mock", "pricing": {"perCall": "0.10 USDC"},
            "routes": [{"route": "POST /api/generate", "price": null}],
        });
        assert_eq!(of_price_page(&page, "POST", &endpoint, &endpoint.origin), Vec::<Value>::new());
    }
}
