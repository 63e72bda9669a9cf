// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {EscrowVault} from "./EscrowVault.sol";

/// What the kernel tells a registry when a provider's work settles.
interface IReputation {
    function updateReputationOnSettlement(address agent, bytes32 transactionId, uint256 amount, bool providerAtFault)
        external;
}

/// The coordinator of escrowed work: who may do what, when, and what it does to the money.
///
/// Interface, words, order of checks and order of events are those of the kernel that is deployed on
/// Base since 2026-05-19; where a later generation differs, a function is virtual. The code is written
/// anew from the protocol's description, for tests. Two things are deliberately kinder than on Base: a
/// malformed resolution is refused in words where the deployed kernel's decoder is silent, and the
/// archive treasury is paid by the vault itself.
abstract contract KernelRules is ReentrancyGuard {
    enum State {
        INITIATED,
        QUOTED,
        COMMITTED,
        IN_PROGRESS,
        DELIVERED,
        SETTLED,
        DISPUTED,
        CANCELLED
    }

    /// The fields, and their order, of the deployed kernel's view.
    struct Transaction {
        bytes32 transactionId;
        address requester;
        address provider;
        State state;
        uint256 amount;
        uint256 createdAt;
        uint256 updatedAt;
        uint256 deadline;
        bytes32 serviceHash;
        address escrowContract;
        bytes32 escrowId;
        bytes32 attestationUID;
        // Seconds until DELIVERED; from then on the time at which the window closes.
        uint256 disputeWindow;
        bytes32 metadata;
        uint16 platformFeeBpsLocked;
        uint16 requesterPenaltyBpsLocked;
        uint16 disputeBondBpsLocked;
        uint256 agentId;
        uint256 requesterAgentId;
        address disputeInitiator;
        uint256 disputeBond;
    }

    /// How a dispute ends. `given` tells a resolution from no bytes at all.
    struct Resolution {
        bool given;
        bool providerAtFault;
        uint256 requesterAmount;
        uint256 providerAmount;
        address mediator;
        uint256 mediatorAmount;
    }

    struct PendingRates {
        uint16 platformFeeBps;
        uint16 requesterPenaltyBps;
        uint256 executeAfter;
        bool active;
    }

    uint256 public constant DEFAULT_DISPUTE_WINDOW = 2 days;
    uint256 public constant MIN_DISPUTE_WINDOW = 1 hours;
    uint256 public constant MAX_DISPUTE_WINDOW = 30 days;
    uint256 public constant MAX_DEADLINE = 365 days;
    uint256 public constant ECONOMIC_PARAM_DELAY = 2 days;
    uint256 public constant MEDIATOR_APPROVAL_DELAY = 2 days;
    uint256 public constant MIN_TRANSACTION_AMOUNT = 50_000;
    uint256 public constant MAX_TRANSACTION_AMOUNT = 1e15;
    uint256 public constant MIN_FEE = 50_000;
    uint256 public constant MIN_DISPUTE_BOND = 1_000_000;
    uint256 public constant MAX_BPS = 10_000;
    uint16 public constant MAX_PLATFORM_FEE_CAP = 500;
    uint16 public constant MAX_REQUESTER_PENALTY_CAP = 5_000;
    uint16 public constant MAX_DISPUTE_BOND_BPS = 2_000;
    uint16 public constant MAX_MEDIATOR_FEE_BPS = 1_000;
    uint16 public constant ARCHIVE_ALLOCATION_BPS = 10;
    /// A registry that needs more than this loses the update, never the settlement.
    uint256 private constant REPUTATION_GAS = 150_000;

    address public immutable USDC;
    address public admin;
    address public pauser;
    address public feeRecipient;
    address public agentRegistry;
    address public archiveTreasury;
    bool public paused;
    uint16 public platformFeeBps = 100;
    uint16 public requesterPenaltyBps = 500;
    uint16 public disputeBondBps = 500;

    mapping(address requester => uint256) public requesterNonces;
    mapping(address vault => bool) public approvedEscrowVaults;
    mapping(address mediator => bool) public approvedMediators;
    /// From when on an approved mediator can be paid.
    mapping(address mediator => uint256) public mediatorApprovedAt;
    /// The registry that counted a transaction: no second one counts it again.
    mapping(bytes32 transactionId => address) public reputationProcessedBy;

    mapping(bytes32 transactionId => Transaction) internal _transactions;
    mapping(address vault => mapping(bytes32 escrowId => bool)) private _usedEscrowIds;
    PendingRates private _pendingRates;

    event StateTransitioned(
        bytes32 indexed transactionId,
        State indexed oldState,
        State indexed newState,
        address triggeredBy,
        uint256 timestamp
    );
    event EscrowLinked(
        bytes32 indexed transactionId, address escrowContract, bytes32 escrowId, uint256 amount, uint256 timestamp
    );
    event EscrowReleased(bytes32 indexed transactionId, address recipient, uint256 amount, uint256 timestamp);
    event EscrowRefunded(bytes32 indexed transactionId, address recipient, uint256 amount, uint256 timestamp);
    event EscrowMilestoneReleased(bytes32 indexed transactionId, uint256 amount, uint256 timestamp);
    event QuoteAccepted(bytes32 indexed transactionId, uint256 oldAmount, uint256 newAmount, uint256 timestamp);
    event PlatformFeeAccrued(
        bytes32 indexed transactionId, address indexed recipient, uint256 amount, uint256 timestamp
    );
    event EscrowMediatorPaid(
        bytes32 indexed transactionId, address indexed mediator, uint256 amount, uint256 timestamp
    );
    event AttestationAnchored(
        bytes32 indexed transactionId, bytes32 indexed attestationUID, address attester, uint256 timestamp
    );
    event DisputeOpened(
        bytes32 indexed transactionId, address indexed initiator, uint256 bond, uint256 timestamp
    );
    event DisputeResolved(
        bytes32 indexed transactionId,
        bytes32 indexed disputeId,
        address indexed initiator,
        bool providerAtFault,
        uint256 bond,
        uint256 timestamp
    );
    event KernelPaused(address indexed by, uint256 timestamp);
    event KernelUnpaused(address indexed by, uint256 timestamp);
    event EscrowVaultApproved(address indexed vault, bool approved);
    event MediatorApproved(address indexed mediator, bool approved);
    event ArchiveTreasuryUpdated(address indexed oldTreasury, address indexed newTreasury);
    event FeeRecipientUpdated(address indexed oldRecipient, address indexed newRecipient);
    event EconomicParamsUpdateScheduled(
        uint16 newPlatformFeeBps, uint16 newRequesterPenaltyBps, uint256 executeAfter
    );
    event EconomicParamsUpdated(uint16 platformFeeBps, uint16 requesterPenaltyBps, uint256 timestamp);

    modifier onlyAdmin() {
        require(msg.sender == admin, "Not admin");
        _;
    }

    modifier onlyPauser() {
        require(msg.sender == pauser || msg.sender == admin, "Not pauser");
        _;
    }

    modifier whenNotPaused() {
        require(!paused, "Kernel paused");
        _;
    }

    /// Without a pauser the admin pauses; without a registry no reputation is kept. A registry that
    /// names this kernel in its own constructor can be passed by the address that it will have.
    constructor(address admin_, address pauser_, address feeRecipient_, address agentRegistry_, address usdc_) {
        require(admin_ != address(0), "Admin required");
        require(feeRecipient_ != address(0), "Fee recipient required");
        require(usdc_ != address(0), "USDC required");
        admin = admin_;
        pauser = pauser_ == address(0) ? admin_ : pauser_;
        feeRecipient = feeRecipient_;
        agentRegistry = agentRegistry_;
        USDC = usdc_;
    }

    // What the parties call.

    /// What a creation asks for, in every generation.
    struct Order {
        address provider;
        address requester;
        uint256 amount;
        uint256 deadline;
        uint256 disputeWindow;
        bytes32 serviceHash;
        uint256 agentId;
        uint256 requesterAgentId;
    }

    /// Creates a transaction, in which no money moves, at the rates in force.
    function _create(Order memory order) internal returns (bytes32 transactionId) {
        require(msg.sender == order.requester, "Requester mismatch");
        require(order.provider != address(0), "Zero provider");
        require(order.requester != order.provider, "Self-transaction not allowed");
        require(order.amount >= MIN_TRANSACTION_AMOUNT, "Amount below minimum");
        require(order.amount <= MAX_TRANSACTION_AMOUNT, "Amount exceeds maximum");
        _checkDeadline(order.deadline);
        _checkDisputeWindow(order.disputeWindow);

        uint256 nonce = requesterNonces[order.requester]++;
        transactionId = keccak256(
            abi.encodePacked(order.requester, order.provider, order.amount, order.serviceHash, nonce)
        );
        Transaction storage transaction = _transactions[transactionId];
        require(transaction.createdAt == 0, "Tx exists");

        transaction.transactionId = transactionId;
        transaction.requester = order.requester;
        transaction.provider = order.provider;
        transaction.amount = order.amount;
        transaction.createdAt = block.timestamp;
        transaction.updatedAt = block.timestamp;
        transaction.deadline = order.deadline;
        transaction.serviceHash = order.serviceHash;
        transaction.disputeWindow = order.disputeWindow;
        transaction.platformFeeBpsLocked = platformFeeBps;
        transaction.requesterPenaltyBpsLocked = requesterPenaltyBps;
        transaction.disputeBondBpsLocked = disputeBondBps;
        transaction.agentId = order.agentId;
        transaction.requesterAgentId = order.requesterAgentId;
    }

    /// Replaces the amount of a quoted transaction by what its provider asked for.
    function acceptQuote(bytes32 transactionId, uint256 newAmount) external whenNotPaused {
        require(newAmount >= MIN_TRANSACTION_AMOUNT, "Below minimum");
        require(newAmount <= MAX_TRANSACTION_AMOUNT, "Above maximum");
        Transaction storage transaction = _find(transactionId);
        require(transaction.state == State.QUOTED, "Not quoted");
        require(msg.sender == transaction.requester, "Only requester");
        require(block.timestamp <= transaction.deadline, "Expired");

        uint256 oldAmount = transaction.amount;
        transaction.amount = newAmount;
        transaction.platformFeeBpsLocked = platformFeeBps;
        transaction.updatedAt = block.timestamp;
        emit QuoteAccepted(transactionId, oldAmount, newAmount, block.timestamp);
    }

    /// Moves the amount from the requester into a vault: the only way to COMMITTED.
    function linkEscrow(bytes32 transactionId, address escrowContract, bytes32 escrowId)
        external
        whenNotPaused
        nonReentrant
    {
        require(escrowContract != address(0), "Escrow addr");
        require(escrowId != bytes32(0), "Invalid escrow ID");
        require(approvedEscrowVaults[escrowContract], "Escrow not approved");
        require(!_usedEscrowIds[escrowContract][escrowId], "Escrow ID already used");
        Transaction storage transaction = _find(transactionId);
        State oldState = transaction.state;
        require(oldState == State.INITIATED || oldState == State.QUOTED, _cannotLink());
        (address requester, address provider) = (transaction.requester, transaction.provider);
        require(msg.sender == requester, "Only requester");
        require(block.timestamp <= transaction.deadline, "Transaction expired");

        _usedEscrowIds[escrowContract][escrowId] = true;
        uint256 amount = transaction.amount;
        EscrowVault vault = EscrowVault(escrowContract);
        vault.createEscrow(escrowId, requester, provider, amount);
        (bool active, uint256 held) = vault.verifyEscrow(escrowId, requester, provider, amount);
        require(active && held >= amount, "Escrow funding failed");

        transaction.escrowContract = escrowContract;
        transaction.escrowId = escrowId;
        transaction.state = State.COMMITTED;
        transaction.updatedAt = block.timestamp;
        emit EscrowLinked(transactionId, escrowContract, escrowId, amount, block.timestamp);
        emit StateTransitioned(transactionId, oldState, State.COMMITTED, msg.sender, block.timestamp);
    }

    /// Takes any other step. `proof` is a quote hash, a dispute window or a resolution; steps that
    /// carry nothing ignore it.
    function transitionState(bytes32 transactionId, State newState, bytes calldata proof)
        external
        whenNotPaused
        nonReentrant
    {
        _transition(_find(transactionId), newState, proof);
    }

    /// Pays part of work in progress early, charged its own fee.
    function releaseMilestone(bytes32 transactionId, uint256 amount) external whenNotPaused nonReentrant {
        require(amount > 0, "Amount zero");
        Transaction storage transaction = _find(transactionId);
        require(transaction.state == State.IN_PROGRESS, "Not in progress");
        require(msg.sender == transaction.requester, "Only requester");
        require(transaction.escrowContract != address(0), "Escrow missing");
        require(amount <= _remaining(transaction), "Insufficient escrow");

        _payProvider(transaction, amount);
        transaction.updatedAt = block.timestamp;
        emit EscrowMilestoneReleased(transactionId, amount, block.timestamp);
    }

    /// Pays what a settled transaction still holds, if anything. A pause does not hold it back.
    function releaseEscrow(bytes32 transactionId) external nonReentrant {
        Transaction storage transaction = _find(transactionId);
        require(transaction.state == State.SETTLED, "Not settled");
        _settle(transaction);
    }

    /// Keeps the UID of an attestation about settled work; the last one stays.
    function anchorAttestation(bytes32 transactionId, bytes32 attestationUID) external whenNotPaused {
        require(attestationUID != bytes32(0), "Attestation missing");
        Transaction storage transaction = _find(transactionId);
        require(transaction.state == State.SETTLED, "Only settled");
        require(_isParty(transaction), "Not participant");

        transaction.attestationUID = attestationUID;
        emit AttestationAnchored(transactionId, attestationUID, msg.sender, block.timestamp);
    }

    // What its operators call.

    function pause() external onlyPauser {
        require(!paused, "Already paused");
        paused = true;
        emit KernelPaused(msg.sender, block.timestamp);
    }

    function unpause() external onlyPauser {
        require(paused, "Not paused");
        paused = false;
        emit KernelUnpaused(msg.sender, block.timestamp);
    }

    function approveEscrowVault(address vault, bool approved) public virtual onlyAdmin {
        require(vault != address(0), "Zero vault");
        approvedEscrowVaults[vault] = approved;
        emit EscrowVaultApproved(vault, approved);
    }

    /// An approval counts from two days later on; approving again does not start it anew.
    function approveMediator(address mediator, bool approved) external onlyAdmin {
        require(mediator != address(0), "Zero mediator");
        if (!approved) {
            delete mediatorApprovedAt[mediator];
        } else if (!approvedMediators[mediator]) {
            mediatorApprovedAt[mediator] = block.timestamp + MEDIATOR_APPROVAL_DELAY;
        }
        approvedMediators[mediator] = approved;
        emit MediatorApproved(mediator, approved);
    }

    function setArchiveTreasury(address treasury) external onlyAdmin {
        require(treasury != address(0), "Zero address");
        emit ArchiveTreasuryUpdated(archiveTreasury, treasury);
        archiveTreasury = treasury;
    }

    function updateFeeRecipient(address recipient) external onlyAdmin {
        require(recipient != address(0), "Zero recipient");
        emit FeeRecipientUpdated(feeRecipient, recipient);
        feeRecipient = recipient;
    }

    function updateDisputeBondBps(uint16 newBps) external onlyAdmin {
        require(newBps <= MAX_DISPUTE_BOND_BPS, "Exceeds max bond cap");
        disputeBondBps = newBps;
    }

    /// Announces new rates, which anybody can put in force two days later.
    function scheduleEconomicParams(uint16 newPlatformFeeBps, uint16 newRequesterPenaltyBps) external onlyAdmin {
        require(!_pendingRates.active, "Pending update - cancel first");
        require(newPlatformFeeBps > 0, "Fee cannot be zero");
        require(newPlatformFeeBps <= MAX_PLATFORM_FEE_CAP, "Fee cap");
        require(newRequesterPenaltyBps <= MAX_REQUESTER_PENALTY_CAP, "Penalty cap");
        uint256 executeAfter = block.timestamp + ECONOMIC_PARAM_DELAY;
        _pendingRates = PendingRates(newPlatformFeeBps, newRequesterPenaltyBps, executeAfter, true);
        emit EconomicParamsUpdateScheduled(newPlatformFeeBps, newRequesterPenaltyBps, executeAfter);
    }

    function executeEconomicParamsUpdate() external {
        PendingRates memory pending = _pendingRates;
        require(pending.active, "No pending");
        require(block.timestamp >= pending.executeAfter, "Too early");
        delete _pendingRates;
        (platformFeeBps, requesterPenaltyBps) = (pending.platformFeeBps, pending.requesterPenaltyBps);
        emit EconomicParamsUpdated(platformFeeBps, requesterPenaltyBps, block.timestamp);
    }

    // The steps.

    function _transition(Transaction storage transaction, State newState, bytes calldata proof) internal {
        State oldState = transaction.state;
        require(newState != oldState, "No-op");
        require(_canBecome(oldState, newState), "Invalid transition");
        _authorize(transaction, oldState, newState);
        _checkTime(transaction, oldState, newState);

        if (newState == State.QUOTED) {
            if (proof.length != 0) transaction.metadata = _quoteHash(proof);
        } else if (newState == State.DELIVERED) {
            transaction.disputeWindow = block.timestamp + _delivery(transaction, proof);
        } else if (newState == State.DISPUTED) {
            _takeBond(transaction);
        }
        transaction.state = newState;
        transaction.updatedAt = block.timestamp;
        bytes32 id = transaction.transactionId;
        emit StateTransitioned(id, oldState, newState, msg.sender, block.timestamp);

        if (newState == State.DISPUTED) {
            emit DisputeOpened(id, msg.sender, transaction.disputeBond, block.timestamp);
        } else if (newState == State.SETTLED) {
            if (oldState == State.DISPUTED) _settleDispute(transaction, proof);
            else _settle(transaction);
        } else if (newState == State.CANCELLED) {
            if (oldState == State.DISPUTED) _cancelDispute(transaction, proof);
            else if (transaction.escrowContract != address(0)) _giveBack(transaction, oldState);
        }
    }

    function _canBecome(State from, State to) private pure returns (bool) {
        if (to == State.QUOTED) return from == State.INITIATED;
        if (to == State.IN_PROGRESS) return from == State.COMMITTED;
        if (to == State.DELIVERED) return from == State.IN_PROGRESS;
        if (to == State.DISPUTED) return from == State.DELIVERED;
        if (to == State.SETTLED) return from == State.DELIVERED || from == State.DISPUTED;
        if (to == State.CANCELLED) return from <= State.IN_PROGRESS || from == State.DISPUTED;
        return false;
    }

    function _authorize(Transaction storage transaction, State from, State to) private view {
        if (to == State.QUOTED || to == State.IN_PROGRESS || to == State.DELIVERED) {
            require(msg.sender == transaction.provider, "Only provider");
        } else if (from == State.DISPUTED) {
            require(_isResolver(), "Resolver only");
        } else if (to == State.SETTLED) {
            bool windowPassed = block.timestamp > transaction.disputeWindow;
            require(_isParty(transaction) || windowPassed, "Not authorized to settle");
        } else if (from <= State.QUOTED) {
            require(msg.sender == transaction.requester, "Only requester can cancel");
        } else {
            require(_isParty(transaction), "Party only");
        }
    }

    function _checkTime(Transaction storage transaction, State from, State to) private view {
        bool byRequester = msg.sender == transaction.requester;
        if (to == State.DELIVERED) {
            _checkDeliveryTime(transaction.deadline);
        } else if (to == State.QUOTED || to == State.IN_PROGRESS) {
            require(block.timestamp <= transaction.deadline, "Transaction expired");
        } else if (to == State.DISPUTED) {
            require(block.timestamp <= transaction.disputeWindow, "Dispute window closed");
        } else if (from == State.DELIVERED && !byRequester) {
            require(block.timestamp > transaction.disputeWindow, "Requester decision pending");
        } else if (from == State.IN_PROGRESS) {
            require(!byRequester, _cannotCancel());
        } else if (from == State.COMMITTED && byRequester) {
            require(block.timestamp >= transaction.deadline, "Deadline not reached");
        }
    }

    function _checkDeadline(uint256 deadline) internal view virtual {
        require(deadline > block.timestamp, "Deadline in past");
        require(deadline - block.timestamp <= MAX_DEADLINE, "Deadline too far");
    }

    function _checkDeliveryTime(uint256 deadline) internal view virtual {
        require(block.timestamp <= deadline, "Transaction expired");
    }

    function _isResolver() internal view virtual returns (bool) {
        return msg.sender == admin;
    }

    // Words that a later generation shortens.

    function _cannotLink() internal pure virtual returns (string memory) {
        return "Invalid state for linking escrow";
    }

    function _cannotCancel() internal pure virtual returns (string memory) {
        return "Cannot cancel after work started";
    }

    function _unresolved() internal pure virtual returns (string memory) {
        return "Dispute resolution requires explicit proof";
    }

    function _checkDisputeWindow(uint256 window) internal pure {
        require(window >= MIN_DISPUTE_WINDOW, "Dispute window too short");
        require(window <= MAX_DISPUTE_WINDOW, "Dispute window too long");
    }

    function _quoteHash(bytes calldata proof) private pure returns (bytes32 hash) {
        require(proof.length == 32, "Quote hash must be 32 bytes");
        hash = bytes32(proof);
        require(hash != bytes32(0), "Invalid quote hash");
    }

    /// Reads what a delivery carries, of which the window is returned.
    function _delivery(Transaction storage, bytes calldata proof) internal virtual returns (uint256 window) {
        require(proof.length == 0 || proof.length == 32, "Invalid dispute window proof");
        window = proof.length == 0 ? 0 : uint256(bytes32(proof));
        if (window == 0) return DEFAULT_DISPUTE_WINDOW;
        _checkDisputeWindow(window);
    }

    // Disputes.

    function _takeBond(Transaction storage transaction) private {
        require(transaction.escrowContract != address(0), "Escrow missing for dispute");
        uint256 bond = transaction.amount * transaction.disputeBondBpsLocked / MAX_BPS;
        if (bond < MIN_DISPUTE_BOND) bond = MIN_DISPUTE_BOND;
        transaction.disputeInitiator = msg.sender;
        transaction.disputeBond = bond;
        EscrowVault(transaction.escrowContract).depositBond(transaction.escrowId, msg.sender, bond);
    }

    function _settleDispute(Transaction storage transaction, bytes calldata proof) private {
        Resolution memory resolution = _decodeResolution(proof);
        require(resolution.given, _unresolved());
        _remember(transaction, resolution.providerAtFault);
        _split(transaction, resolution);
        address winner = resolution.providerAtFault ? transaction.requester : transaction.provider;
        _releaseBond(transaction, winner, resolution.providerAtFault);
    }

    /// A cancelled dispute finds nobody at fault: the bond returns to whoever paid it.
    function _cancelDispute(Transaction storage transaction, bytes calldata proof) private {
        Resolution memory resolution = _decodeResolution(proof);
        if (resolution.given) _split(transaction, resolution);
        else _cancelUnresolved(transaction);
        _releaseBond(transaction, transaction.disputeInitiator, false);
    }

    /// A cancelled dispute without a resolution.
    function _cancelUnresolved(Transaction storage transaction) internal virtual {
        _refund(transaction, _remaining(transaction));
    }

    /// Two amounts; between them and the verdict a mediator and its amount; the verdict last, and
    /// where it is left out the provider is at fault.
    function _decodeResolution(bytes calldata proof) private pure returns (Resolution memory resolution) {
        uint256 length = proof.length;
        if (length == 0) return resolution;
        require(length % 32 == 0 && length >= 64 && length <= 160, "Invalid resolution proof");
        resolution.given = true;
        resolution.requesterAmount = _word(proof, 0);
        resolution.providerAmount = _word(proof, 1);
        if (length >= 128) {
            uint256 mediator = _word(proof, 2);
            require(mediator <= type(uint160).max, "Invalid resolution proof");
            resolution.mediator = address(uint160(mediator));
            resolution.mediatorAmount = _word(proof, 3);
        }
        // With a verdict the number of words is odd.
        uint256 verdict = length % 64 == 0 ? 1 : _word(proof, length / 32 - 1);
        require(verdict <= 1, "Invalid resolution proof");
        resolution.providerAtFault = verdict == 1;

        bool nobodyGetsAnything =
            resolution.requesterAmount == 0 && resolution.providerAmount == 0 && resolution.mediatorAmount == 0;
        require(!nobodyGetsAnything, "Empty resolution");
        require(resolution.mediatorAmount == 0 || resolution.mediator != address(0), "Mediator address required");
    }

    function _word(bytes calldata proof, uint256 index) private pure returns (uint256) {
        return uint256(bytes32(proof[32 * index:32 * index + 32]));
    }

    function _split(Transaction storage transaction, Resolution memory resolution) private {
        address mediator = resolution.mediator;
        if (mediator != address(0)) {
            require(approvedMediators[mediator], "Mediator not approved");
            require(block.timestamp >= mediatorApprovedAt[mediator], "Mediator approval pending");
        }
        uint256 remaining = _remaining(transaction);
        if (remaining == 0) return;
        // One after the other, so that no sum can wrap around to what is there.
        uint256 rest = _less(remaining, resolution.requesterAmount);
        rest = _less(rest, resolution.providerAmount);
        require(rest == resolution.mediatorAmount, "Must distribute ALL funds");

        if (resolution.providerAmount != 0) _payProvider(transaction, resolution.providerAmount);
        _refund(transaction, resolution.requesterAmount);
        if (resolution.mediatorAmount != 0) _payMediator(transaction, mediator, resolution.mediatorAmount);
    }

    function _less(uint256 rest, uint256 amount) private pure returns (uint256) {
        require(amount <= rest, "Must distribute ALL funds");
        return rest - amount;
    }

    // Money.

    function _settle(Transaction storage transaction) private {
        _remember(transaction, false);
        uint256 remaining = _remaining(transaction);
        if (remaining != 0) _payProvider(transaction, remaining);
    }

    /// A provider gives everything back; a requester takes it back less the penalty.
    function _giveBack(Transaction storage transaction, State oldState) private {
        uint256 remaining = _remaining(transaction);
        uint256 penalty;
        if (oldState == State.COMMITTED && msg.sender == transaction.requester) {
            penalty = remaining * transaction.requesterPenaltyBpsLocked / MAX_BPS;
        }
        _refund(transaction, remaining - penalty);
        if (penalty != 0) _payProvider(transaction, penalty);
    }

    function _payProvider(Transaction storage transaction, uint256 gross) private {
        uint256 fee = _fee(gross, transaction.platformFeeBpsLocked);
        (bytes32 id, address provider, uint256 net) =
            (transaction.transactionId, transaction.provider, gross - fee);
        if (net != 0) {
            _payingVault(transaction).payoutToProvider(transaction.escrowId, net);
            emit EscrowReleased(id, provider, net, block.timestamp);
        }
        uint256 archived;
        if (archiveTreasury != address(0)) {
            archived = fee * ARCHIVE_ALLOCATION_BPS / MAX_BPS;
            if (archived != 0) _payOut(transaction, archiveTreasury, archived);
        }
        _payOut(transaction, feeRecipient, fee - archived);
        emit PlatformFeeAccrued(id, feeRecipient, fee - archived, block.timestamp);
    }

    function _fee(uint256 gross, uint256 bps) internal pure virtual returns (uint256 fee) {
        fee = gross * bps / MAX_BPS;
        if (fee < MIN_FEE) fee = MIN_FEE;
        require(fee <= gross, "Fee exceeds amount");
    }

    function _payMediator(Transaction storage transaction, address mediator, uint256 amount) private {
        uint256 most = transaction.amount * MAX_MEDIATOR_FEE_BPS / MAX_BPS;
        require(amount <= most, "Mediator fee exceeds maximum");
        _payOut(transaction, mediator, amount);
        emit EscrowMediatorPaid(transaction.transactionId, mediator, amount, block.timestamp);
    }

    function _refund(Transaction storage transaction, uint256 amount) internal {
        if (amount == 0) return;
        _payingVault(transaction).refundToRequester(transaction.escrowId, amount);
        emit EscrowRefunded(transaction.transactionId, transaction.requester, amount, block.timestamp);
    }

    function _payOut(Transaction storage transaction, address recipient, uint256 amount) private {
        _payingVault(transaction).payout(transaction.escrowId, recipient, amount);
    }

    function _releaseBond(Transaction storage transaction, address recipient, bool providerAtFault) private {
        uint256 bond = transaction.disputeBond;
        transaction.disputeBond = 0;
        EscrowVault(transaction.escrowContract).releaseBond(transaction.escrowId, recipient, bond);
        // No kernel ever numbered its disputes: the field is zero on Base too.
        emit DisputeResolved(
            transaction.transactionId,
            bytes32(0),
            transaction.disputeInitiator,
            providerAtFault,
            bond,
            block.timestamp
        );
    }

    /// Counts a settlement once. Nothing that the registry does can hold the money back.
    function _remember(Transaction storage transaction, bool providerAtFault) internal {
        (bytes32 id, address registry) = (transaction.transactionId, agentRegistry);
        if (registry.code.length == 0 || reputationProcessedBy[id] != address(0)) return;
        reputationProcessedBy[id] = registry;
        try IReputation(registry).updateReputationOnSettlement{gas: REPUTATION_GAS}(
            transaction.provider, id, transaction.amount, providerAtFault
        ) {} catch {}
    }

    // Small questions.

    function _find(bytes32 transactionId) internal view returns (Transaction storage transaction) {
        transaction = _transactions[transactionId];
        require(transaction.createdAt != 0, "Tx missing");
    }

    function _isParty(Transaction storage transaction) private view returns (bool) {
        return msg.sender == transaction.requester || msg.sender == transaction.provider;
    }

    /// Money leaves approved vaults only.
    function _payingVault(Transaction storage transaction) private view returns (EscrowVault) {
        require(approvedEscrowVaults[transaction.escrowContract], "Vault not approved");
        return EscrowVault(transaction.escrowContract);
    }

    function _remaining(Transaction storage transaction) internal view returns (uint256) {
        return EscrowVault(transaction.escrowContract).remaining(transaction.escrowId);
    }
}
