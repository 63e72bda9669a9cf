// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {Aip14cKernel} from "./Aip14cKernel.sol";
import {CompositeMediator} from "./CompositeMediator.sol";
import {EscrowVault} from "./EscrowVault.sol";
import {KernelRules} from "./KernelRules.sol";

/// Decides the disputes of an AIP-14c kernel by rulings that are backed by bonds: what nobody challenges
/// in time is carried out.
///
/// Functions, words, order of checks and the layout of `disputes` are those of the deployed contract, as
/// far as its source tells; the code is written anew, for tests, and the events are ours. There are no
/// rulings by evaluators here and no oracle: nothing reaches tier 2.
contract BondEscalation is ReentrancyGuard {
    using SafeERC20 for IERC20;

    /// The fields, and their order, of the deployed contract's `disputes`.
    struct Dispute {
        bytes32 transactionId;
        uint8 currentRuling;
        uint16 splitBps;
        uint256 currentBond;
        // What the bonds add up to; after a split, what of them is shared among those who paid them.
        uint256 accumulatedBonds;
        uint64 livenessEnd;
        uint64 disputedAt;
        address lastProposer;
        uint8 tier;
        bool resolved;
        bool winnerPaid;
        uint256 originalPool;
        uint256 escrowAmount;
    }

    uint8 private constant SPLIT = 2;
    uint8 private constant OPENED = 0;
    uint8 private constant PROPOSED = 1;
    uint256 private constant ALL_BPS = 10_000;
    uint16 private constant HALF_BPS = 5_000;
    uint256 private constant FIRST_BOND_BPS = 200;
    uint256 private constant MIN_BOND = 1_000_000;
    uint256 private constant MAX_BOND = 500_000_000;
    uint256 private constant BOUNTY_BPS = 1_000;
    uint256 private constant MIN_BOUNTY = 100_000;
    uint256 private constant STALE_AFTER = 30 days;

    Aip14cKernel public immutable kernel;
    IERC20 public immutable USDC;
    CompositeMediator public immutable compositeMediator;
    address public immutable admin;
    bool public paused;

    mapping(bytes32 disputeId => Dispute) public disputes;
    /// What each address has paid in bonds and not claimed.
    mapping(bytes32 disputeId => mapping(address proposer => uint256)) public deposits;

    event DisputeOpened(bytes32 indexed disputeId, bytes32 indexed transactionId, uint256 escrowAmount, address by);
    event RulingProposed(
        bytes32 indexed disputeId, address indexed proposer, uint8 ruling, uint16 splitBps, uint256 bond
    );
    event DisputeFinalized(bytes32 indexed disputeId, uint8 ruling, address indexed finalizer, uint256 bounty);
    event BondsClaimed(bytes32 indexed disputeId, address indexed proposer, uint256 amount);
    event ResolvedElsewhere(bytes32 indexed disputeId, bytes32 indexed transactionId);
    event StaleDisputeResolved(bytes32 indexed disputeId, address indexed by);

    modifier whenNotPaused() {
        require(!paused, "Paused");
        _;
    }

    constructor(address kernel_, address usdc_, address compositeMediator_, address admin_) {
        kernel = Aip14cKernel(kernel_);
        USDC = IERC20(usdc_);
        compositeMediator = CompositeMediator(compositeMediator_);
        admin = admin_;
    }

    /// Opens the dispute about a transaction that is DISPUTED on the kernel; anybody may.
    function openDispute(bytes32 txId) external whenNotPaused returns (bytes32 disputeId) {
        disputeId = keccak256(abi.encode("ACTP_DISPUTE_V1", txId));
        Dispute storage dispute = disputes[disputeId];
        require(dispute.disputedAt == 0, "Already opened");
        KernelRules.Transaction memory disputed = kernel.getTransaction(txId).transaction;
        require(disputed.state == KernelRules.State.DISPUTED, "Not in DISPUTED state");
        uint256 inEscrow = EscrowVault(disputed.escrowContract).remaining(disputed.escrowId);
        dispute.transactionId = txId;
        dispute.disputedAt = uint64(block.timestamp);
        dispute.escrowAmount = inEscrow;
        emit DisputeOpened(disputeId, txId, inEscrow, msg.sender);
    }

    /// The first ruling. Its bond is pulled from the sender, who must have approved this contract.
    function proposeDirectly(bytes32 disputeId, uint8 ruling, uint16 splitBps) external whenNotPaused nonReentrant {
        Dispute storage dispute = _open(disputeId);
        require(dispute.tier == OPENED, "Already has proposal");
        _checkRuling(ruling, splitBps);
        uint256 bond = dispute.escrowAmount * FIRST_BOND_BPS / ALL_BPS;
        if (bond < MIN_BOND) bond = MIN_BOND;
        if (bond > MAX_BOND) bond = MAX_BOND;
        dispute.tier = PROPOSED;
        _propose(disputeId, dispute, ruling, splitBps, bond);
    }

    /// Another ruling in place of the one that stands, for twice its bond.
    function challenge(bytes32 disputeId, uint8 counterRuling, uint16 counterSplitBps)
        external
        whenNotPaused
        nonReentrant
    {
        Dispute storage dispute = _open(disputeId);
        require(dispute.tier == PROPOSED, "Not in Tier 1");
        require(block.timestamp <= dispute.livenessEnd, "Liveness expired");
        _checkRuling(counterRuling, counterSplitBps);
        bool stands = dispute.currentRuling == counterRuling && dispute.splitBps == counterSplitBps;
        require(!stands, "Must propose different outcome");
        uint256 bond = 2 * dispute.currentBond;
        _propose(disputeId, dispute, counterRuling, counterSplitBps, bond > MAX_BOND ? MAX_BOND : bond);
    }

    /// Carries out what nobody challenged in time; anybody may, for a part of the pool.
    function finalize(bytes32 disputeId) external nonReentrant {
        Dispute storage dispute = _open(disputeId);
        require(dispute.tier == PROPOSED, "Not in Tier 1");
        require(block.timestamp > dispute.livenessEnd, "Liveness active");
        if (!_isDisputed(dispute)) return _resolvedElsewhere(disputeId, dispute);
        uint256 pool = dispute.accumulatedBonds;
        uint256 bounty = pool * BOUNTY_BPS / ALL_BPS;
        if (bounty < MIN_BOUNTY) bounty = MIN_BOUNTY;
        if (bounty > pool) bounty = pool;
        bool isSplit = dispute.currentRuling == SPLIT;
        dispute.resolved = true;
        dispute.originalPool = pool;
        dispute.accumulatedBonds = isSplit ? pool - bounty : 0;
        dispute.winnerPaid = !isSplit;
        USDC.safeTransfer(msg.sender, bounty);
        if (!isSplit) USDC.safeTransfer(dispute.lastProposer, pool - bounty);
        compositeMediator.resolve(dispute.transactionId, dispute.currentRuling, dispute.splitBps);
        emit DisputeFinalized(disputeId, dispute.currentRuling, msg.sender, bounty);
    }

    /// After a split each gets back its part of what the bounty left of the bonds.
    function claimEscalationRefund(bytes32 disputeId) external nonReentrant {
        Dispute storage dispute = disputes[disputeId];
        require(dispute.resolved, "Not resolved");
        require(dispute.currentRuling == SPLIT, "Not a split - winner takes all");
        uint256 deposited = deposits[disputeId][msg.sender];
        require(deposited != 0, "Nothing to claim");
        deposits[disputeId][msg.sender] = 0;
        uint256 part = deposited * dispute.accumulatedBonds / dispute.originalPool;
        USDC.safeTransfer(msg.sender, part);
        emit BondsClaimed(disputeId, msg.sender, part);
    }

    /// Ends a dispute that the kernel's admin has resolved: all bonds go back.
    function syncExternalResolution(bytes32 disputeId) external {
        Dispute storage dispute = _open(disputeId);
        require(!_isDisputed(dispute), "Still disputed in kernel");
        _resolvedElsewhere(disputeId, dispute);
    }

    /// Ends what nobody ended for thirty days, with half for each; all bonds go back.
    function forceResolveStale(bytes32 disputeId) external nonReentrant {
        Dispute storage dispute = _open(disputeId);
        require(block.timestamp > dispute.disputedAt + STALE_AFTER, "Not stale");
        if (!_isDisputed(dispute)) return _resolvedElsewhere(disputeId, dispute);
        _splitEvenly(dispute);
        compositeMediator.resolve(dispute.transactionId, SPLIT, HALF_BPS);
        emit StaleDisputeResolved(disputeId, msg.sender);
    }

    function pause() external {
        require(msg.sender == admin, "Only admin");
        paused = true;
    }

    function unpause() external {
        require(msg.sender == admin, "Only admin");
        paused = false;
    }

    function _open(bytes32 disputeId) private view returns (Dispute storage dispute) {
        dispute = disputes[disputeId];
        require(dispute.disputedAt != 0, "Dispute not opened");
        require(!dispute.resolved, "Already resolved");
    }

    function _isDisputed(Dispute storage dispute) private view returns (bool) {
        return kernel.getTransaction(dispute.transactionId).transaction.state == KernelRules.State.DISPUTED;
    }

    function _checkRuling(uint8 ruling, uint16 splitBps) private pure {
        require(ruling <= SPLIT, "Invalid ruling");
        require(ruling == SPLIT || splitBps == 0, "splitBps only for splits");
        require(splitBps <= ALL_BPS, "Invalid splitBps");
    }

    function _propose(bytes32 disputeId, Dispute storage dispute, uint8 ruling, uint16 splitBps, uint256 bond)
        private
    {
        dispute.currentRuling = ruling;
        dispute.splitBps = splitBps;
        dispute.currentBond = bond;
        dispute.accumulatedBonds += bond;
        dispute.livenessEnd = uint64(block.timestamp + _liveness(dispute.escrowAmount));
        dispute.lastProposer = msg.sender;
        deposits[disputeId][msg.sender] += bond;
        USDC.safeTransferFrom(msg.sender, address(this), bond);
        emit RulingProposed(disputeId, msg.sender, ruling, splitBps, bond);
    }

    function _resolvedElsewhere(bytes32 disputeId, Dispute storage dispute) private {
        _splitEvenly(dispute);
        emit ResolvedElsewhere(disputeId, dispute.transactionId);
    }

    function _splitEvenly(Dispute storage dispute) private {
        dispute.resolved = true;
        dispute.originalPool = dispute.accumulatedBonds;
        dispute.currentRuling = SPLIT;
        dispute.splitBps = HALF_BPS;
    }

    function _liveness(uint256 escrowAmount) private pure returns (uint256) {
        if (escrowAmount < 50_000_000) return 1 hours;
        if (escrowAmount < 500_000_000) return 2 hours;
        if (escrowAmount < 5_000_000_000) return 4 hours;
        return 8 hours;
    }
}
