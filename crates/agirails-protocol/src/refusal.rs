//! The kernel's words: why a call is refused, and what a caller can do about it.

use std::fmt;

use crate::{Generation, Kind, Retry};

/// One row per refusal: the contract's words, the kind of error, whether the same call can
/// succeed later, and the remedy.
macro_rules! refusals {
    ($($variant:ident, $code:literal, $words:literal, $kind:ident, $retry:ident, $hint:literal;)*) => {
        /// Why the deployed contracts refuse a call. [`Refusal::words`] are the contract's own; where
        /// AIP-14c words one anew, those of the kernel on mainnet.
        ///
        /// Source: the `require` messages of `ACTPKernel`, `EscrowVault`, `AgentRegistry` and
        /// `BondEscalation`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Refusal {
            $(#[doc = concat!("`", $words, "`")] $variant,)*
        }

        impl Refusal {
            /// Every refusal, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The contract's words.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$variant => $words,)* }
            }

            /// The stable code of the error that carries this refusal.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The family of the error that carries this refusal.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }

            /// Whether the same call can succeed later.
            pub const fn retry(self) -> Retry {
                match self { $(Self::$variant => Retry::$retry,)* }
            }

            /// What to do about it.
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint,)* }
            }
        }
    };
}

refusals! {
    TxMissing, "tx_missing", "Tx missing", TransactionNotFound, Never,
        "check the id and that it was created on this network and in this state directory";
    RequesterMismatch, "requester_mismatch", "Requester mismatch", Unauthorized, Never,
        "a transaction is created by its requester: leave `requester` out or pass the client's own address";
    ZeroProvider, "zero_provider", "Zero provider", Validation, Never,
        "pass the provider's address, as its price page names it";
    SelfTransaction, "self_transaction", "Self-transaction not allowed", Validation, Never,
        "requester and provider must be two addresses";
    AmountBelowMinimum, "amount_below_minimum", "Amount below minimum", Validation, Never,
        "the least amount is 50_000 base units (0.05 USDC), of which the provider gets nothing; bundle cheap calls";
    AmountAboveMaximum, "amount_above_maximum", "Amount exceeds maximum", Validation, Never,
        "amounts are base units of USDC (1 USDC = 1_000_000), at most 1e15";
    DeadlineInPast, "deadline_in_past", "Deadline in past", Validation, Never,
        "a deadline is an absolute Unix time in seconds, later than now";
    DeadlineTooSoon, "deadline_too_soon", "Deadline too soon", Validation, Never,
        "on this kernel a deadline lies at least an hour ahead by the chain's clock: add a minute or more to it";
    DeadlineTooFar, "deadline_too_far", "Deadline too far", Validation, Never,
        "a deadline is an absolute Unix time in seconds (not milliseconds), at most 365 days from now";
    DisputeWindowTooShort, "dispute_window_too_short", "Dispute window too short", Validation, Never,
        "a dispute window is a duration in seconds, at least 3_600 (1 hour)";
    DisputeWindowTooLong, "dispute_window_too_long", "Dispute window too long", Validation, Never,
        "a dispute window is a duration in seconds, at most 2_592_000 (30 days)";
    TxExists, "tx_exists", "Tx exists", TransactionReverted, Never,
        "the requester's nonce was reused; create the transaction again";
    NoOp, "no_op", "No-op", InvalidStateTransition, Never,
        "the transaction is in that state already; nothing is left to do";
    InvalidTransition, "invalid_transition", "Invalid transition", InvalidStateTransition, Never,
        "read the transaction and take a step that its state allows; COMMITTED is reached by link_escrow only";
    OnlyProvider, "only_provider", "Only provider", Unauthorized, Never,
        "this step is the provider's";
    OnlyRequester, "only_requester", "Only requester", Unauthorized, Never,
        "this step is the requester's";
    OnlyRequesterCanCancel, "only_requester_can_cancel", "Only requester can cancel", Unauthorized, Never,
        "before the escrow is linked only the requester calls a transaction off";
    PartyOnly, "party_only", "Party only", Unauthorized, Never,
        "only the transaction's requester or provider may do this";
    ResolverOnly, "resolver_only", "Resolver only", Unauthorized, Never,
        "a dispute is resolved by the kernel's admin; from F-6 on by an approved mediator too, two days after its approval";
    NotAuthorizedToSettle, "not_authorized_to_settle", "Not authorized to settle", Unauthorized, Safe,
        "strangers may settle once the dispute window has passed";
    RequesterDecisionPending, "requester_decision_pending", "Requester decision pending", DisputeWindowActive, Safe,
        "the provider may settle once the dispute window has passed; the requester may settle now";
    TransactionExpired, "transaction_expired", "Transaction expired", DeadlinePassed, Never,
        "the deadline has passed: the provider can only cancel, which refunds the requester in full";
    DeliveryGraceExpired, "delivery_grace_expired", "Delivery grace expired", DeadlinePassed, Never,
        "the deadline and the kernel's grace have passed: the provider can only cancel, which refunds the requester in full";
    CannotCancelAfterWorkStarted, "cannot_cancel_after_work_started", "Cannot cancel after work started", InvalidStateTransition, Never,
        "from IN_PROGRESS only the provider can give the money back; kernels from F-6 on recover it once deadline and grace have passed (recover_stalled)";
    DeadlineNotReached, "deadline_not_reached", "Deadline not reached", InvalidStateTransition, Safe,
        "the requester can cancel a committed transaction from its deadline on";
    DisputeWindowClosed, "dispute_window_closed", "Dispute window closed", DeadlinePassed, Never,
        "the dispute window has passed; the delivery stands";
    InvalidDisputeWindowProof, "invalid_dispute_window_proof", "Invalid dispute window proof", Validation, Never,
        "deliver with a delivery proof, with nothing, or with 32 bytes that encode the dispute window in seconds";
    DeliveryProofMalformed, "delivery_proof_malformed", "Delivery proof must be (window,resultHash)", Validation, Never,
        "on this kernel a delivery commits to its result: deliver with a delivery proof, or with 64 bytes, the dispute window in seconds and the result's hash";
    ResultHashRequired, "result_hash_required", "resultHash required", Validation, Never,
        "the result's hash is not zero: deliver with a delivery proof of the result";
    QuoteHashLength, "quote_hash_length", "Quote hash must be 32 bytes", Validation, Never,
        "pass nothing or the 32-byte hash of the quote";
    InvalidQuoteHash, "invalid_quote_hash", "Invalid quote hash", Validation, Never,
        "a quote hash is not zero";
    EscrowAddress, "escrow_address", "Escrow addr", Validation, Never,
        "leave the vault out: the network's own is used";
    InvalidEscrowId, "invalid_escrow_id", "Invalid escrow ID", Validation, Never,
        "leave the escrow id out: the transaction's id is used";
    EscrowNotApproved, "escrow_not_approved", "Escrow not approved", TransactionReverted, Never,
        "leave the vault out: the network's own is used";
    VaultNotApproved, "vault_not_approved", "Vault not approved", TransactionReverted, Safe,
        "the kernel's admin has withdrawn its approval of the vault that holds this money: nothing leaves it until the admin approves it again";
    EscrowIdUsed, "escrow_id_used", "Escrow ID already used", TransactionReverted, Never,
        "this escrow is funded already; read the transaction before paying again";
    InvalidStateForLinking, "invalid_state_for_linking", "Invalid state for linking escrow", InvalidStateTransition, Never,
        "an escrow is linked while the transaction is INITIATED or QUOTED";
    EscrowFundingFailed, "escrow_funding_failed", "Escrow funding failed", TransactionReverted, Never,
        "the vault did not receive the whole amount; check the token";
    EscrowExists, "escrow_exists", "Escrow exists", TransactionReverted, Never,
        "leave the escrow id out: the transaction's id is used";
    BelowMinimum, "below_minimum", "Below minimum", Validation, Never,
        "the least amount is 50_000 base units (0.05 USDC)";
    AboveMaximum, "above_maximum", "Above maximum", Validation, Never,
        "amounts are base units of USDC (1 USDC = 1_000_000), at most 1e15";
    NotQuoted, "not_quoted", "Not quoted", InvalidStateTransition, Never,
        "a quote is accepted while the transaction is QUOTED";
    Expired, "expired", "Expired", DeadlinePassed, Never,
        "the deadline has passed; create a new transaction";
    AmountZero, "amount_zero", "Amount zero", Validation, Never,
        "a milestone pays more than nothing; below 0.05 USDC the fee exceeds it";
    NotInProgress, "not_in_progress", "Not in progress", InvalidStateTransition, Never,
        "milestones are released, and abandoned work is recovered, while the transaction is IN_PROGRESS";
    RecoveryNotYetAvailable, "recovery_not_yet_available", "Recovery not yet available", InvalidStateTransition, Safe,
        "the money of begun work is recovered once the deadline and the kernel's grace have passed";
    EscrowMissing, "escrow_missing", "Escrow missing", TransactionReverted, Never,
        "link the escrow first";
    InsufficientEscrow, "insufficient_escrow", "Insufficient escrow", InsufficientFunds, Never,
        "release at most what remains in escrow";
    FeeExceedsAmount, "fee_exceeds_amount", "Fee exceeds amount", TransactionReverted, Never,
        "on this kernel a payout to the provider below 0.05 USDC cannot pay its fee; a committed transaction below 1 USDC can therefore be cancelled by its provider only";
    NotSettled, "not_settled", "Not settled", InvalidStateTransition, Never,
        "settle the transaction first; settling pays out";
    AttestationMissing, "attestation_missing", "Attestation missing", Validation, Never,
        "pass the attestation's UID, 32 bytes that are not all zero";
    OnlySettled, "only_settled", "Only settled", InvalidStateTransition, Never,
        "attestations are anchored once the transaction is SETTLED";
    NotParticipant, "not_participant", "Not participant", Unauthorized, Never,
        "only the transaction's requester or provider may do this";
    EscrowMissingForDispute, "escrow_missing_for_dispute", "Escrow missing for dispute", TransactionReverted, Never,
        "link the escrow first";
    ResolutionRequired, "resolution_required", "Dispute resolution requires explicit proof", Validation, Never,
        "pass the resolution: how much each side gets";
    EmptyResolution, "empty_resolution", "Empty resolution", Validation, Never,
        "a resolution gives something to somebody";
    MustDistributeAll, "must_distribute_all", "Must distribute ALL funds", Validation, Never,
        "the amounts of a resolution add up to what remains in escrow";
    InvalidResolutionProof, "invalid_resolution_proof", "Invalid resolution proof", Validation, Never,
        "encode the resolution with encode_resolution";
    MediatorAddressRequired, "mediator_address_required", "Mediator address required", Validation, Never,
        "name the mediator that is paid";
    MediatorNotApproved, "mediator_not_approved", "Mediator not approved", TransactionReverted, Never,
        "the kernel's admin approves mediators first";
    MediatorApprovalPending, "mediator_approval_pending", "Mediator approval pending", TransactionReverted, Safe,
        "a mediator is paid from two days after its approval";
    MediatorFeeExceedsMaximum, "mediator_fee_exceeds_maximum", "Mediator fee exceeds maximum", Validation, Never,
        "a mediator gets at most 10 % of the transaction's amount";
    KernelPaused, "kernel_paused", "Kernel paused", ContractPaused, Safe,
        "the protocol is paused by its operators; try again later";
    AlreadyRegistered, "already_registered", "Already registered", TransactionReverted, Never,
        "change the profile instead: update_endpoint, add_service_type, remove_service_type";
    NotRegistered, "not_registered", "Not registered", TransactionReverted, Never,
        "register the agent first";
    EmptyEndpoint, "empty_endpoint", "Empty endpoint", Validation, Never,
        "pass the URL at which the agent is reached";
    EndpointTooLong, "endpoint_too_long", "Endpoint too long", Validation, Never,
        "an endpoint has at most 256 bytes";
    NoServices, "no_services", "At least one service required", Validation, Never,
        "name at least one service type";
    TooManyServices, "too_many_services", "Too many services", Validation, Never,
        "an agent offers at most 100 services";
    ServiceLimitReached, "service_limit_reached", "Service limit reached", TransactionReverted, Never,
        "an agent offers at most 100 services; remove one first";
    RegistryFull, "registry_full", "Registry full", TransactionReverted, Never,
        "the registry holds at most 10_000 agents";
    HashMismatch, "hash_mismatch", "Hash mismatch", Validation, Never,
        "leave the hash out: it is computed from the service type";
    ServiceAlreadyAdded, "service_already_added", "Service already added", TransactionReverted, Never,
        "the agent offers this service already";
    ServiceNotFound, "service_not_found", "Service not found", TransactionReverted, Never,
        "the agent does not offer this service";
    EmptyServiceType, "empty_service_type", "Empty service type", Validation, Never,
        "a service type is lowercase letters, digits and single hyphens";
    ServiceTypeTooLong, "service_type_too_long", "Service type too long", Validation, Never,
        "a service type has at most 64 characters";
    ServiceTypeWhitespace, "service_type_whitespace", "Service type contains whitespace", Validation, Never,
        "a service type is lowercase letters, digits and single hyphens";
    ServiceTypeUppercase, "service_type_uppercase", "Service type must be lowercase", Validation, Never,
        "a service type is lowercase letters, digits and single hyphens";
    ServiceTypeCharacter, "service_type_character", "Invalid character in service type (allowed: a-z, 0-9, hyphen)", Validation, Never,
        "a service type is lowercase letters, digits and single hyphens";
    ConsecutiveHyphens, "consecutive_hyphens", "Consecutive hyphens", Validation, Never,
        "a service type is lowercase letters, digits and single hyphens";
    LeadingHyphen, "leading_hyphen", "Cannot start with hyphen", Validation, Never,
        "a service type is lowercase letters, digits and single hyphens";
    TrailingHyphen, "trailing_hyphen", "Cannot end with hyphen", Validation, Never,
        "a service type is lowercase letters, digits and single hyphens";
    QueryLimit, "query_limit", "Limit must be 1-100", Validation, Never,
        "ask for 1 to 100 agents at a time and page with the offset";
    QueryCapExceeded, "query_cap_exceeded", "Too many agents - use off-chain indexer", QueryCapExceeded, Never,
        "on-chain queries stop at 1_000 registered agents; read the registry's events or an indexer";
    InvalidDidLength, "invalid_did_length", "Invalid DID length", Validation, Never,
        "a DID reads did:ethr:<chain id>:<lowercase address>";
    DisputeAlreadyOpened, "dispute_already_opened", "Already opened", InvalidStateTransition, Never,
        "the dispute is open: read where it stands, then propose a ruling or challenge the one that stands";
    NotInDisputedState, "not_in_disputed_state", "Not in DISPUTED state", InvalidStateTransition, Never,
        "a party disputes the delivery first: dispute(id, max_bond), or transition_state to DISPUTED";
    DisputeNotOpened, "dispute_not_opened", "Dispute not opened", InvalidStateTransition, Never,
        "open the dispute first: anyone may, and it costs gas only";
    DisputeResolved, "dispute_resolved", "Already resolved", InvalidStateTransition, Never,
        "the dispute is over; after a split each proposer claims its part of the bonds (claim_refund)";
    RulingProposed, "ruling_proposed", "Already has proposal", InvalidStateTransition, Never,
        "a ruling stands already: challenge it if it is wrong";
    NoRulingStands, "no_ruling_stands", "Not in Tier 1", InvalidStateTransition, Never,
        "nothing is proposed yet, or UMA's oracle decides: read where the dispute stands";
    SameRuling, "same_ruling", "Must propose different outcome", InvalidStateTransition, Never,
        "this ruling stands already: leave it, and finalize it once nobody can challenge it any more";
    LivenessExpired, "liveness_expired", "Liveness expired", DeadlinePassed, Never,
        "the time for challenges is over: the ruling that stands can only be finalized";
    LivenessActive, "liveness_active", "Liveness active", InvalidStateTransition, Safe,
        "a ruling is finalized once the time for challenges is over; each challenge starts it anew";
    DisputeNotResolved, "dispute_not_resolved", "Not resolved", InvalidStateTransition, Safe,
        "bonds are claimed once the dispute is finalized";
    NotASplit, "not_a_split", "Not a split - winner takes all", InvalidStateTransition, Never,
        "nothing is claimed: the last proposer was paid when the dispute was finalized";
    NothingToClaim, "nothing_to_claim", "Nothing to claim", InvalidStateTransition, Never,
        "this address paid no bond in this dispute, or has claimed it already";
    NotStale, "not_stale", "Not stale", InvalidStateTransition, Safe,
        "a dispute is stale 30 days after it was opened, 60 where UMA's oracle was asked";
    StillDisputed, "still_disputed", "Still disputed in kernel", InvalidStateTransition, Never,
        "only a dispute that the kernel's admin has resolved is synced: finalize this one";
    DisputesPaused, "disputes_paused", "Paused", ContractPaused, Safe,
        "new disputes and rulings are paused by their operators; what stands can still be finalized";
}

/// What AIP-14c says in other words than the kernels before it.
const AIP_14C_WORDS: &[(Refusal, &str)] = &[
    (Refusal::InvalidStateForLinking, "Invalid state for linkEscrow"),
    (Refusal::CannotCancelAfterWorkStarted, "No cancel after work started"),
    (Refusal::ResolutionRequired, "Explicit resolution required"),
];

impl Refusal {
    /// What `BondEscalation` says and the kernel, its vault and its registry do not.
    pub const DISPUTES: &'static [Self] = &[
        Self::DisputeAlreadyOpened,
        Self::NotInDisputedState,
        Self::DisputeNotOpened,
        Self::DisputeResolved,
        Self::RulingProposed,
        Self::NoRulingStands,
        Self::SameRuling,
        Self::LivenessExpired,
        Self::LivenessActive,
        Self::DisputeNotResolved,
        Self::NotASplit,
        Self::NothingToClaim,
        Self::NotStale,
        Self::StillDisputed,
        Self::DisputesPaused,
    ];

    /// The refusal with these words, whichever generation of the contracts says them.
    ///
    /// ```
    /// use agirails_protocol::Refusal;
    ///
    /// let refusal = Some(Refusal::ResolutionRequired);
    /// assert_eq!(Refusal::from_words("Explicit resolution required"), refusal);
    /// assert_eq!(Refusal::from_words("Dispute resolution requires explicit proof"), refusal);
    /// assert_eq!(Refusal::from_words("explicit"), None);
    /// ```
    pub fn from_words(words: &str) -> Option<Self> {
        let own = Self::ALL.iter().copied().find(|refusal| refusal.words() == words);
        own.or_else(|| {
            AIP_14C_WORDS.iter().find(|(_, said)| *said == words).map(|(refusal, _)| *refusal)
        })
    }

    /// The words in which a generation of the contracts says it.
    pub fn words_in(self, generation: Generation) -> &'static str {
        let said = AIP_14C_WORDS.iter().find(|(refusal, _)| *refusal == self);
        match said {
            Some((_, words)) if generation == Generation::Aip14c => words,
            _ => self.words(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl std::error::Error for Refusal {}
