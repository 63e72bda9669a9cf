//! What somebody tries, and who tries what next.

use std::collections::VecDeque;

use agirails::{
    Address, B256, Network, State, Transaction, U256, Usdc,
    kernel::AgentQuery,
    protocol::registry::{AgentProfile, MAX_SERVICES, ServiceDescriptor},
};
use alloy_primitives::keccak256;

pub const HOUR: u64 = 3_600;
pub const DAY: u64 = 86_400;
pub const USDC: u64 = 1_000_000;

/// A transaction by the number that its creation was given, so that a sequence still means
/// something after some of it is left out.
pub type Label = u32;

/// One operation, in terms that hold at any time of day.
#[derive(Debug, Clone)]
pub enum Operation {
    Create(Label, Create),
    Link {
        sender: Address,
        of: Label,
        vault: Option<Address>,
        escrow_id: Option<EscrowId>,
    },
    Accept {
        sender: Address,
        of: Label,
        amount: u64,
    },
    Step {
        sender: Address,
        of: Label,
        to: State,
        data: Data,
    },
    Milestone {
        sender: Address,
        of: Label,
        amount: u64,
    },
    Release {
        sender: Address,
        of: Label,
    },
    Anchor {
        sender: Address,
        of: Label,
        uid: B256,
    },
    Recover {
        sender: Address,
        of: Label,
    },
    Approve {
        sender: Address,
        amount: u64,
    },
    Mint {
        to: Address,
        amount: u64,
    },
    Pause(bool),
    ApproveMediator(Address),
    Wait(u64),
    /// Until so many seconds after the deadline, if that is still ahead.
    WaitForDeadline(Label, i64),
    /// Until so many seconds after the last second in which begun work is delivered, if that is still
    /// ahead.
    WaitForGrace(Label, i64),
    /// Until so many seconds after the dispute window's end, if that is still ahead.
    WaitForWindow(Label, i64),
    Register {
        sender: Address,
        endpoint: String,
        services: Vec<ServiceDescriptor>,
    },
    UpdateEndpoint {
        sender: Address,
        endpoint: String,
    },
    AddService {
        sender: Address,
        service_type: String,
    },
    RemoveService {
        sender: Address,
        hash: B256,
    },
    SetActive {
        sender: Address,
        active: bool,
    },
    Query(AgentQuery),
}

#[derive(Debug, Clone)]
pub struct Create {
    pub sender: Address,
    pub requester: Address,
    pub provider: Address,
    pub amount: u64,
    pub deadline: When,
    pub window: u64,
    pub service_hash: B256,
    pub agent_id: U256,
    pub requester_agent_id: U256,
    pub agreement_hash: B256,
}

#[derive(Debug, Clone, Copy)]
pub enum When {
    FromNow(i64),
    At(u64),
}

#[derive(Debug, Clone, Copy)]
pub enum EscrowId {
    Word(B256),
    /// The id of a transaction, which is another one's or is linked twice.
    Of(Label),
}

/// What a transition carries.
#[derive(Clone)]
pub struct Data(pub Vec<u8>);

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = self.0.chunks(32).map(|word| match U256::try_from_be_slice(word) {
            Some(number) if word.len() == 32 && number < U256::from(u64::MAX) => number.to_string(),
            _ => alloy_primitives::hex::encode_prefixed(word),
        });
        write!(f, "[{}]", words.collect::<Vec<_>>().join(", "))
    }
}

/// Random numbers that a seed repeats (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below this number.
    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    fn within(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first) + 1)
    }

    /// True in so many of a hundred cases.
    fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    /// One of these, each as often as its weight says.
    fn weigh<T: Copy>(&mut self, of: &[(u64, T)]) -> T {
        let mut left = self.below(of.iter().map(|(weight, _)| weight).sum());
        for (weight, item) in of {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return *item,
            }
        }
        unreachable!("the weights add up to more")
    }

    fn word(&mut self) -> B256 {
        keccak256(self.roll().to_be_bytes())
    }
}

/// A transaction as a generator sees it.
pub struct Deal<'a> {
    pub label: Label,
    pub tx: &'a Transaction,
    pub remaining: u64,
}

/// What a generator knows.
pub struct View<'a> {
    pub now: u64,
    pub paused: bool,
    /// In the order of their creation.
    pub deals: Vec<Deal<'a>>,
    pub agents: &'a [AgentProfile],
    /// Approved mediators, each with the time from which it can be paid.
    pub mediators: &'a [(Address, u64)],
}

/// Five people, of whom any can be requester, provider or stranger.
pub const PEOPLE: [Address; 5] = [
    Address::repeat_byte(0xa0),
    Address::repeat_byte(0xa1),
    Address::repeat_byte(0xa2),
    Address::repeat_byte(0xa3),
    Address::repeat_byte(0xa4),
];

/// Five who mediate, of whom the last one is never approved.
pub const MEDIATORS: [Address; 5] = [
    Address::repeat_byte(0xe0),
    Address::repeat_byte(0xe1),
    Address::repeat_byte(0xe2),
    Address::repeat_byte(0xe3),
    Address::repeat_byte(0xee),
];

/// They are paid, and call nobody.
pub fn contracts(network: &Network) -> [Address; 5] {
    let Network { kernel, vault, usdc, agent_registry, archive_treasury, .. } = *network;
    [kernel, vault, usdc, agent_registry.unwrap(), archive_treasury.unwrap()]
}

const SERVICES: [&str; 6] = ["ai-completion", "a", "0", "translation-2", "ocr", "x-y-z"];
const BAD_SERVICES: [&str; 12] = [
    "",
    "A",
    "aB",
    "a b",
    "a\tb",
    "a\n",
    "a--b",
    "-a",
    "a-",
    "é",
    "a_b",
    "a-service-type-of-more-than-sixty-four-characters-is-not-a-good-one",
];

/// Whether a step is left that leads somewhere but to a cancellation.
fn is_live(deal: &Deal<'_>, now: u64) -> bool {
    match deal.tx.state {
        State::Initiated | State::Quoted | State::Committed | State::InProgress => {
            now <= deal.tx.deadline
        }
        State::Delivered | State::Disputed => true,
        State::Settled | State::Cancelled => false,
    }
}

/// Makes up operations.
pub struct Generator {
    dice: Dice,
    network: Network,
    created: Label,
    /// What is to follow a wait, before anything else.
    planned: VecDeque<Operation>,
}

impl Generator {
    pub fn new(seed: u64, network: Network) -> Self {
        let mut dice = Dice(seed);
        let mut planned = VecDeque::new();
        // Most sequences have mediators, and most of these can be paid.
        for mediator in &MEDIATORS[..3] {
            if dice.percent(60) {
                planned.push_back(Operation::ApproveMediator(*mediator));
                planned.push_back(Operation::Wait(dice.pick(&[0, DAY, 2 * DAY])));
            }
        }
        Self { dice, network, created: 0, planned }
    }

    /// What comes next; half of it leads a transaction on, the rest tests who can do what.
    pub fn next(&mut self, view: &View<'_>) -> Operation {
        if view.paused && self.dice.percent(35) {
            return Operation::Pause(false);
        }
        if let Some(planned) = self.planned.pop_front() {
            return planned;
        }
        let live = view.deals.iter().filter(|deal| is_live(deal, view.now)).count();
        let create = if live < 6 { 30 } else { 4 };
        let kind = self.dice.weigh(&[
            (create, 0),
            (56, 1),
            (9, 2),
            (9, 3),
            (4, 4),
            (8, 5),
            (6, 6),
            (1, 7),
            (1, 8),
        ]);
        match (kind, self.choose(view)) {
            (1, Some(deal)) => self.forward(deal, view),
            (2, Some(deal)) => self.forward_by_anybody(deal, view),
            (3, Some(deal)) => self.anything(deal, view),
            (4, Some(deal)) => self.wait(deal, view),
            (5, _) => self.registry(view),
            (6, _) => self.money(),
            (7, _) => Operation::Pause(true),
            (8, _) => self.on_nothing(),
            _ => self.create(),
        }
    }

    /// One of the newest transactions that can go on, now and then any.
    fn choose<'a>(&mut self, view: &'a View<'_>) -> Option<&'a Deal<'a>> {
        let open: Vec<_> =
            view.deals.iter().rev().filter(|deal| is_live(deal, view.now)).take(8).collect();
        if open.is_empty() || self.dice.percent(15) {
            let newest = view.deals.len().saturating_sub(12);
            let all: Vec<_> = view.deals[newest..].iter().collect();
            return (!all.is_empty()).then(|| self.dice.pick(&all));
        }
        Some(self.dice.pick(&open))
    }

    // People.

    /// Somebody who can call: who holds a key on a chain.
    fn anybody(&mut self) -> Address {
        let Network { admin, fee_recipient, .. } = self.network;
        match self.dice.below(40) {
            0 | 1 => admin,
            2 => fee_recipient,
            3 => self.dice.pick(&MEDIATORS),
            _ => self.dice.pick(&PEOPLE),
        }
    }

    /// Somebody who can be paid: contracts too.
    fn anyone_to_pay(&mut self) -> Address {
        match self.dice.below(30) {
            0 => self.dice.pick(&contracts(&self.network)),
            _ => self.anybody(),
        }
    }

    /// A caller for whom a transaction is of interest; no contract calls.
    fn caller(&mut self, tx: &Transaction) -> Address {
        let caller = match self.dice.below(10) {
            0..3 => tx.requester,
            3..6 => tx.provider,
            6..8 => self.network.admin,
            _ => self.anybody(),
        };
        if self.can_call(caller) { caller } else { self.anybody() }
    }

    fn can_call(&self, address: Address) -> bool {
        !contracts(&self.network).contains(&address)
    }

    // Operations.

    fn amount(&mut self) -> u64 {
        match self.dice.below(100) {
            0..5 => self.dice.pick(&[0, 1, 49_999, 1_000_000_000_000_001, u64::MAX]),
            5..12 => self.dice.pick(&[50_000, 50_001, 999_999, USDC, USDC + 1, 20 * USDC]),
            // The steps of a reputation.
            12 | 13 => self.dice.pick(&[100, 1_000, 10_000, 100_000]) * USDC - self.dice.below(2),
            15 => self.dice.within(1_000 * USDC, 1_500 * USDC),
            14 => self.dice.pick(&[1_000_000_000_000_000, 999_999_999_999_999]),
            16..45 => self.dice.within(50_000, 2 * USDC),
            _ => self.dice.within(USDC, 60 * USDC),
        }
    }

    fn window(&mut self) -> u64 {
        match self.dice.below(100) {
            0..6 => self.dice.pick(&[1, HOUR - 1, 30 * DAY + 1, u64::MAX]),
            6..14 => self.dice.pick(&[HOUR, 30 * DAY, 2 * DAY]),
            _ => self.dice.within(HOUR, 3 * DAY),
        }
    }

    fn create(&mut self) -> Operation {
        self.created += 1;
        let requester = self.anybody();
        let mut provider = self.anyone_to_pay();
        if provider == requester && !self.dice.percent(20) {
            provider = self.dice.pick(&PEOPLE);
        }
        if self.dice.percent(1) {
            provider = Address::ZERO;
        }
        let deadline = match self.dice.below(100) {
            0..4 => When::FromNow(self.dice.pick(&[-1, 0, 1, 365 * 86_400 + 1])),
            4..6 => When::FromNow(365 * 86_400),
            6 => When::At(self.dice.pick(&[0, 1, u64::MAX, u64::MAX - 1])),
            7 | 8 => When::FromNow(self.dice.within(HOUR - 1, HOUR + 1) as i64),
            9..25 => When::FromNow(self.dice.within(HOUR, 2 * DAY) as i64),
            _ => When::FromNow(self.dice.within(2 * DAY, 40 * DAY) as i64),
        };
        let number = |dice: &mut Dice| match dice.below(4) {
            0 => U256::from_be_bytes(dice.word().0),
            1 => U256::from(dice.below(1_000)),
            _ => U256::ZERO,
        };
        let window = if self.dice.percent(2) { 0 } else { self.window() };
        Operation::Create(
            self.created,
            Create {
                sender: if self.dice.percent(2) { self.anybody() } else { requester },
                requester,
                provider,
                amount: self.amount(),
                deadline,
                window,
                service_hash: if self.dice.percent(50) { B256::ZERO } else { self.dice.word() },
                agent_id: number(&mut self.dice),
                requester_agent_id: number(&mut self.dice),
                agreement_hash: match self.network.terms.takes_agreements() {
                    true if self.dice.percent(50) => self.dice.word(),
                    _ => B256::ZERO,
                },
            },
        )
    }

    /// A step that leads on, by who may take it, with what belongs to it.
    fn forward(&mut self, deal: &Deal<'_>, view: &View<'_>) -> Operation {
        let (of, tx) = (deal.label, deal.tx);
        let (requester, provider) = (tx.requester, tx.provider);
        let step = |sender, to, data| Operation::Step { sender, of, to, data: Data(data) };
        let nothing = Vec::new;
        let late = view.now > tx.deadline && self.dice.percent(85);
        let operation = match (tx.state, self.dice.below(100)) {
            (State::Initiated | State::Quoted, _) if late => {
                step(requester, State::Cancelled, nothing())
            }
            (State::Committed, _) if late => {
                step(self.dice.pick(&[requester, provider]), State::Cancelled, nothing())
            }
            (State::InProgress, share) if late && self.recovers() => match share {
                0..35 => step(provider, State::Cancelled, nothing()),
                35..60 => step(provider, State::Delivered, self.delivery()),
                60..80 => self.wait_for_grace(deal),
                _ => Operation::Recover { sender: self.anybody(), of },
            },
            (State::InProgress, _) if late => step(provider, State::Cancelled, nothing()),
            (State::Initiated, 0..40) => step(provider, State::Quoted, self.quote()),
            (State::Initiated | State::Quoted, 40..47) => {
                step(requester, State::Cancelled, nothing())
            }
            (State::Quoted, 0..30) => {
                Operation::Accept { sender: requester, of, amount: self.amount() }
            }
            (State::Initiated | State::Quoted, _) => {
                let link = self.link(requester, deal, view);
                if tx.amount.0 < 500 * USDC || self.dice.percent(40) {
                    link
                } else {
                    let link = self.callable(link);
                    self.planned.push_back(link);
                    Operation::Mint { to: requester, amount: tx.amount.0 }
                }
            }
            (State::Committed, 0..85) => step(provider, State::InProgress, nothing()),
            (State::Committed, 85..92) => step(provider, State::Cancelled, nothing()),
            (State::Committed, _) => self.wait_for(deal, State::Cancelled, true, view),
            (State::InProgress, 0..25) => {
                Operation::Milestone { sender: requester, of, amount: self.milestone(deal) }
            }
            (State::InProgress, 25..95) => step(provider, State::Delivered, self.delivery()),
            (State::InProgress, _) => step(provider, State::Cancelled, nothing()),
            (State::Delivered, 0..60) => {
                let sender = self.dice.pick(&[requester, provider]);
                step(sender, State::Disputed, nothing())
            }
            (State::Delivered, 60..80) => step(requester, State::Settled, nothing()),
            (State::Delivered, _) => self.wait_for(deal, State::Settled, false, view),
            (State::Disputed, share) => {
                let to = if share < 65 { State::Settled } else { State::Cancelled };
                let data = match share {
                    62..75 => nothing(),
                    _ => self.resolution(deal, view),
                };
                let mediates = self.network.terms.mediators_resolve() && self.dice.percent(30);
                let sender = if mediates { self.mediator(view) } else { self.network.admin };
                let sender = if sender.is_zero() { self.network.admin } else { sender };
                step(sender, to, data)
            }
            (State::Settled, 0..75) => {
                let sender = self.dice.pick(&[requester, provider]);
                let uid = if self.dice.percent(10) { B256::ZERO } else { self.dice.word() };
                Operation::Anchor { sender, of, uid }
            }
            (State::Settled | State::Cancelled, _) => {
                Operation::Release { sender: self.anybody(), of }
            }
        };
        self.callable(operation)
    }

    /// The same, by somebody else.
    fn forward_by_anybody(&mut self, deal: &Deal<'_>, view: &View<'_>) -> Operation {
        let mut operation = self.forward(deal, view);
        let caller = self.caller(deal.tx);
        if let Some(sender) = operation.sender() {
            *sender = caller;
        }
        operation
    }

    /// Where a contract would have to call, somebody else does.
    fn callable(&mut self, mut operation: Operation) -> Operation {
        let stand_in = self.anybody();
        let can_call = |address: &Address| self.can_call(*address);
        if let Some(sender) = operation.sender().filter(|sender| !can_call(sender)) {
            *sender = stand_in;
        }
        operation
    }

    /// Any verb, to any state, with any load.
    fn anything(&mut self, deal: &Deal<'_>, view: &View<'_>) -> Operation {
        let (of, sender) = (deal.label, self.caller(deal.tx));
        match self.dice.below(20) {
            5 if self.recovers() => Operation::Recover { sender, of },
            0 => Operation::Accept { sender, of, amount: self.amount() },
            1 => self.link(sender, deal, view),
            2 => Operation::Milestone { sender, of, amount: self.milestone(deal) },
            3 => Operation::Release { sender, of },
            4 => Operation::Anchor { sender, of, uid: self.dice.word() },
            _ => {
                let to = self.dice.pick(&State::ALL);
                let data = match self.dice.below(6) {
                    0 => self.quote(),
                    1 => self.delivery(),
                    2 => self.resolution(deal, view),
                    3 => self.noise(),
                    _ => vec![],
                };
                Operation::Step { sender, of, to, data: Data(data) }
            }
        }
    }

    /// On a transaction that there is not.
    fn on_nothing(&mut self) -> Operation {
        let (sender, of) = (self.anybody(), Label::MAX);
        match self.dice.below(6) {
            5 if self.recovers() => Operation::Recover { sender, of },
            0 => Operation::Accept { sender, of, amount: self.amount() },
            1 => Operation::Link { sender, of, vault: None, escrow_id: None },
            2 => Operation::Milestone { sender, of, amount: self.dice.below(3) },
            3 => Operation::Release { sender, of },
            4 => Operation::Anchor { sender, of, uid: self.dice.pick(&[B256::ZERO, B256::ZERO]) },
            _ => {
                let to = self.dice.pick(&State::ALL);
                Operation::Step { sender, of, to, data: Data(vec![]) }
            }
        }
    }

    fn link(&mut self, sender: Address, deal: &Deal<'_>, view: &View<'_>) -> Operation {
        let vault = match self.dice.below(100) {
            0..2 => Some(Address::ZERO),
            2..4 => Some(self.anyone_to_pay()),
            4..10 => Some(self.network.vault),
            _ => None,
        };
        let used: Vec<_> = view.deals.iter().map(|other| other.tx.escrow_id).collect();
        let escrow_id = match self.dice.below(100) {
            0..2 => Some(EscrowId::Word(B256::ZERO)),
            2..10 => Some(EscrowId::Word(self.dice.word())),
            10..16 => Some(EscrowId::Of(self.dice.pick(&view.deals_labels()))),
            16..22 => Some(EscrowId::Word(self.dice.pick(&used))),
            // A small number, which soon is used.
            22..26 => Some(EscrowId::Word(B256::with_last_byte(self.dice.below(6) as u8))),
            26..30 => Some(EscrowId::Of(deal.label)),
            _ => None,
        };
        Operation::Link { sender, of: deal.label, vault, escrow_id }
    }

    fn milestone(&mut self, deal: &Deal<'_>) -> u64 {
        let left = deal.remaining;
        match self.dice.below(20) {
            0 => 0,
            1 => 49_999,
            2 => 50_000,
            3 => left,
            4 => left.saturating_add(1),
            5 => left.saturating_sub(50_000),
            6 => left.saturating_sub(49_999),
            7 => self.amount(),
            8 => self.dice.below(50_000),
            _ => self.dice.within(50_000, 50_000.max(left / 2)),
        }
    }

    fn wait(&mut self, deal: &Deal<'_>, view: &View<'_>) -> Operation {
        match self.dice.below(10) {
            0..2 => Operation::Wait(self.dice.within(1, 2 * HOUR)),
            2 if self.dice.percent(60) => Operation::Wait(self.dice.within(1, 2 * DAY)),
            2 if self.dice.percent(40) => Operation::Wait(self.dice.within(DAY, 100 * DAY)),
            _ => match deal.tx.state {
                State::Delivered | State::Disputed => {
                    let to = self.dice.pick(&[State::Settled, State::Disputed]);
                    self.wait_for(deal, to, false, view)
                }
                State::Initiated => self.wait_for(deal, State::Quoted, true, view),
                State::Quoted => self.wait_for(deal, State::Committed, true, view),
                State::Committed => {
                    let to = self.dice.pick(&[State::InProgress, State::Cancelled]);
                    self.wait_for(deal, to, true, view)
                }
                State::InProgress if self.recovers() && self.dice.percent(50) => {
                    self.wait_for_grace(deal)
                }
                State::InProgress => {
                    let to = self.dice.pick(&[State::Delivered, State::Cancelled]);
                    self.wait_for(deal, to, true, view)
                }
                State::Settled | State::Cancelled => Operation::Wait(self.dice.within(1, HOUR)),
            },
        }
    }

    /// Waits until just before, on or just after the moment that decides about a step, and then
    /// has parties and strangers try that step.
    fn wait_for(
        &mut self,
        deal: &Deal<'_>,
        to: State,
        deadline: bool,
        view: &View<'_>,
    ) -> Operation {
        let (of, tx) = (deal.label, deal.tx);
        for sender in [self.anybody(), tx.provider, tx.requester] {
            if !self.dice.percent(60) {
                continue;
            }
            let data = match to {
                State::Delivered if self.network.terms.takes_results() => self.delivery(),
                _ => vec![],
            };
            let data = Data(data);
            let attempt = match to {
                State::Committed if self.dice.percent(40) => {
                    Operation::Accept { sender, of, amount: self.amount() }
                }
                State::Committed => self.link(sender, deal, view),
                _ => Operation::Step { sender, of, to, data },
            };
            let attempt = self.callable(attempt);
            self.planned.push_back(attempt);
        }
        let beyond = self.dice.pick(&[-1, 0, 1]);
        if deadline {
            Operation::WaitForDeadline(of, beyond)
        } else {
            Operation::WaitForWindow(of, beyond)
        }
    }

    fn recovers(&self) -> bool {
        self.network.terms.recovery_grace_seconds().is_some()
    }

    /// Waits until about the moment between the last delivery and the first recovery, and has both
    /// tried.
    fn wait_for_grace(&mut self, deal: &Deal<'_>) -> Operation {
        let (of, provider) = (deal.label, deal.tx.provider);
        let deliver = Operation::Step {
            sender: provider,
            of,
            to: State::Delivered,
            data: Data(self.delivery()),
        };
        let recover = Operation::Recover { sender: self.anybody(), of };
        let mut attempts = [self.callable(deliver), recover];
        if self.dice.percent(50) {
            attempts.reverse();
        }
        self.planned.extend(attempts);
        Operation::WaitForGrace(of, self.dice.pick(&[-1, 0, 1]))
    }

    fn money(&mut self) -> Operation {
        let somebody = self.anybody();
        match self.dice.below(10) {
            0..4 => {
                let amount = match self.dice.below(4) {
                    0 => 0,
                    1 => self.dice.below(3 * USDC),
                    2 => self.dice.below(500 * USDC),
                    _ => self.amount().min(1 << 60),
                };
                Operation::Approve { sender: somebody, amount }
            }
            4..7 => {
                let amount = match self.dice.below(20) {
                    0 => 2_000_000_000_000_000,
                    1 => 0,
                    _ => self.dice.within(USDC, 400 * USDC),
                };
                Operation::Mint { to: self.anyone_to_pay(), amount }
            }
            7 | 8 => {
                // A party or a contract can mediate too.
                let known = self.dice.pick(&MEDIATORS[..4]);
                let other = self.anyone_to_pay();
                Operation::ApproveMediator(if self.dice.percent(20) { other } else { known })
            }
            _ => Operation::Wait(self.dice.within(1, HOUR)),
        }
    }

    // What a transition carries.

    fn quote(&mut self) -> Vec<u8> {
        match self.dice.below(20) {
            0 => vec![0; 32],
            1 => self.noise(),
            2..8 => vec![],
            _ => self.dice.word().to_vec(),
        }
    }

    fn delivery(&mut self) -> Vec<u8> {
        if self.network.terms.takes_results() && !self.dice.percent(5) {
            let window = word(self.window());
            let result = if self.dice.percent(5) { B256::ZERO } else { self.dice.word() };
            return [window, result.0].concat();
        }
        match self.dice.below(20) {
            0..6 => vec![],
            6 => word(0).to_vec(),
            7 => self.noise(),
            8 => U256::from_be_bytes(self.dice.word().0).to_be_bytes_vec(),
            // Beyond 64 bits, with an acceptable rest.
            9 => U256::from((1_u128 << 64) + u128::from(HOUR)).to_be_bytes_vec(),
            _ => word(self.window()).to_vec(),
        }
    }

    fn noise(&mut self) -> Vec<u8> {
        let length = self.dice.pick(&[
            1, 4, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 159, 160, 161, 192, 224,
        ]);
        match self.dice.below(4) {
            0 => vec![0; length],
            1 => vec![0xff; length],
            2 => vec![1; length],
            _ => (0..length).map(|_| self.dice.roll() as u8).collect(),
        }
    }

    /// Two amounts, perhaps a mediator and its amount, perhaps the verdict. Most add up.
    fn resolution(&mut self, deal: &Deal<'_>, view: &View<'_>) -> Vec<u8> {
        let left = deal.remaining;
        let mediator = self.dice.percent(40).then(|| self.mediator(view));
        let most = deal.tx.amount.0 / 10;
        let fee = match (mediator, self.dice.below(8)) {
            (None, _) | (_, 0) => 0,
            (_, 1) => most + 1,
            (_, 2) => most,
            _ => self.dice.within(0, most),
        };
        let fee = fee.min(left);
        let rest = left - fee;
        let provider = match self.dice.below(12) {
            0 => 0,
            1 => rest,
            2 => rest.min(49_999),
            3 => rest.min(50_000),
            4 => rest.saturating_sub(1),
            _ if rest > 50_000 => self.dice.within(50_000, rest),
            _ => self.dice.pick(&[0, rest]),
        };
        let requester = rest - provider;
        let mut words = vec![U256::from(requester), U256::from(provider)];
        if let Some(mediator) = mediator {
            words.extend([U256::from_be_slice(mediator.as_slice()), U256::from(fee)]);
        }
        if self.dice.percent(60) {
            words.push(U256::from(self.dice.below(2)));
        }
        match self.dice.below(40) {
            0 => words[0] += U256::ONE,
            1 => words[1] = words[1].wrapping_sub(U256::ONE),
            2 => words.iter_mut().for_each(|word| *word = U256::ZERO),
            // Sums that come round to what is there.
            3 => words[0] = words[0].wrapping_add(U256::from(1) << 255),
            4 => {
                words[0] = words[0].wrapping_sub(U256::from(7));
                words[1] = words[1].wrapping_add(U256::from(7));
            }
            5 => words[0] += U256::ONE << 64,
            // A verdict that is none, a mediator that is no address.
            6 => *words.last_mut().unwrap() = U256::from(2),
            7 if words.len() > 3 => words[2] += U256::ONE << 160,
            8 => words.truncate(1),
            9 => words.resize(6, U256::ZERO),
            10 => return self.noise(),
            _ => {}
        }
        words.iter().flat_map(|word| word.to_be_bytes::<32>()).collect()
    }

    fn mediator(&mut self, view: &View<'_>) -> Address {
        let (payable, pending): (Vec<(Address, u64)>, Vec<_>) =
            view.mediators.iter().partition(|(_, from)| *from <= view.now);
        match self.dice.below(12) {
            0 => Address::ZERO,
            1 => self.anybody(),
            2 => self.dice.pick(&MEDIATORS),
            3..6 if !pending.is_empty() => self.dice.pick(&pending).0,
            _ if !payable.is_empty() => self.dice.pick(&payable).0,
            _ => self.dice.pick(&MEDIATORS),
        }
    }

    // The registry.

    fn registry(&mut self, view: &View<'_>) -> Operation {
        let registered: Vec<_> = view.agents.iter().map(|agent| agent.agent_address).collect();
        let known = !registered.is_empty() && self.dice.percent(85);
        let sender = if known { self.dice.pick(&registered) } else { self.anybody() };
        let register = if registered.len() < 4 { 12 } else { 2 };
        match self.dice.weigh(&[(register, 0), (3, 1), (5, 2), (5, 3), (4, 4), (8, 5)]) {
            0 => {
                let newcomer = self.anybody();
                let sender = if self.dice.percent(15) { sender } else { newcomer };
                let (endpoint, services) = (self.endpoint(), self.services());
                if services.len() >= MAX_SERVICES {
                    let service_type = self.service_type();
                    self.planned.push_back(Operation::AddService { sender, service_type });
                }
                Operation::Register { sender, endpoint, services }
            }
            1 => Operation::UpdateEndpoint { sender, endpoint: self.endpoint() },
            2 => Operation::AddService { sender, service_type: self.service_type() },
            3 => Operation::RemoveService { sender, hash: keccak256(self.service_type()) },
            4 => Operation::SetActive { sender, active: self.dice.percent(70) },
            _ => Operation::Query(AgentQuery {
                service_type_hash: keccak256(self.service_type()),
                min_reputation: self.dice.pick(&[0, 0, 0, 5_000, 7_000, 7_750, 10_001, u64::MAX]),
                offset: self.dice.pick(&[0, 0, 0, 0, 1, 2, 3, u64::MAX]),
                limit: self.dice.pick(&[0, 1, 2, 3, 50, 100, 100, 101, u64::MAX]),
            }),
        }
    }

    fn endpoint(&mut self) -> String {
        match self.dice.below(20) {
            0 => String::new(),
            1 => "x".repeat(257),
            2 => "é".repeat(128),
            3 => "é".repeat(129),
            4 => "\0\"\\ no URL".to_owned(),
            number => format!("https://agent-{number}.example/v1"),
        }
    }

    fn service_type(&mut self) -> String {
        match self.dice.below(20) {
            0..5 => self.dice.pick(&BAD_SERVICES).to_owned(),
            5 => "s".repeat(64),
            _ => self.dice.pick(&SERVICES).to_owned(),
        }
    }

    fn services(&mut self) -> Vec<ServiceDescriptor> {
        match self.dice.below(100) {
            0..5 => return vec![],
            5 | 6 => return (0..=MAX_SERVICES).map(|n| describe(&format!("s{n}"))).collect(),
            7..10 => return (0..MAX_SERVICES).map(|n| describe(&format!("s{n}"))).collect(),
            _ => {}
        }
        let count = self.dice.within(1, 4);
        (0..count)
            .map(|_| {
                let mut service = match self.dice.percent(5) {
                    true => describe(&self.service_type()),
                    false => describe(self.dice.pick(&SERVICES)),
                };
                service.min_price = Usdc(self.dice.below(USDC));
                service.max_price = Usdc(self.dice.roll());
                service.avg_completion_time_seconds = self.dice.below(HOUR);
                if self.dice.percent(30) {
                    service.schema_uri = "ipfs://a-schema-that-is-longer-than-one-word".to_owned();
                    service.metadata_cid = "Qm".to_owned();
                }
                if self.dice.percent(2) {
                    service.service_type_hash = self.dice.word();
                }
                service
            })
            .collect()
    }
}

impl View<'_> {
    fn deals_labels(&self) -> Vec<Label> {
        self.deals.iter().map(|deal| deal.label).collect()
    }
}

impl Operation {
    fn sender(&mut self) -> Option<&mut Address> {
        match self {
            Self::Link { sender, .. }
            | Self::Accept { sender, .. }
            | Self::Step { sender, .. }
            | Self::Milestone { sender, .. }
            | Self::Release { sender, .. }
            | Self::Recover { sender, .. }
            | Self::Anchor { sender, .. } => Some(sender),
            _ => None,
        }
    }

    /// The transaction that it is about.
    pub fn of(&self) -> Option<Label> {
        match *self {
            Self::Create(of, _)
            | Self::Link { of, .. }
            | Self::Accept { of, .. }
            | Self::Step { of, .. }
            | Self::Milestone { of, .. }
            | Self::Release { of, .. }
            | Self::Recover { of, .. }
            | Self::Anchor { of, .. } => Some(of),
            _ => None,
        }
    }

    /// Whose profile in the registry it changes.
    pub fn agent(&self) -> Option<Address> {
        match *self {
            Self::Register { sender, .. }
            | Self::UpdateEndpoint { sender, .. }
            | Self::AddService { sender, .. }
            | Self::RemoveService { sender, .. }
            | Self::SetActive { sender, .. } => Some(sender),
            _ => None,
        }
    }
}

/// A descriptor of which nothing is checked.
pub fn describe(service_type: &str) -> ServiceDescriptor {
    ServiceDescriptor {
        service_type_hash: keccak256(service_type),
        service_type: service_type.to_owned(),
        schema_uri: String::new(),
        min_price: Usdc::ZERO,
        max_price: Usdc::ZERO,
        avg_completion_time_seconds: 0,
        metadata_cid: String::new(),
    }
}

fn word(number: u64) -> [u8; 32] {
    U256::from(number).to_be_bytes()
}
