// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

import {KernelRules} from "./KernelRules.sol";
import {Recovery} from "./Recovery.sol";

/// The kernel as deployed on Base Sepolia since 2026-07-13 (AIP-14c): a transaction commits to what was
/// agreed, its delivery to the result.
contract Aip14cKernel is Recovery {
    struct Commitments {
        bytes32 resultHash;
        bytes32 agreementHash;
    }

    /// The fields of the view, which the commitments end.
    struct TransactionView {
        Transaction transaction;
        Commitments commitments;
    }

    /// How long a vault's revocation is announced before it counts.
    uint256 public constant VAULT_REVOCATION_DELAY = 2 days;

    mapping(bytes32 transactionId => Commitments) private _commitments;
    /// From when on anybody can revoke a vault; 0 where that is not announced.
    mapping(address vault => uint256) public pendingVaultRevocationAt;

    event EscrowVaultRevocationScheduled(address indexed vault, uint256 executeAfter);
    event EscrowVaultRevocationCancelled(address indexed vault);

    event TransactionCreated(
        bytes32 indexed transactionId,
        address indexed requester,
        address indexed provider,
        uint256 amount,
        bytes32 serviceHash,
        uint256 deadline,
        uint256 timestamp,
        uint256 agentId,
        bytes32 agreementHash
    );

    constructor(
        address admin_,
        address pauser_,
        address feeRecipient_,
        address agentRegistry_,
        address usdc_,
        uint256 recoveryGrace_
    ) KernelRules(admin_, pauser_, feeRecipient_, agentRegistry_, usdc_) Recovery(recoveryGrace_) {}

    function kernelVersion() external pure returns (bytes32) {
        return keccak256("ACTP_KERNEL_V2_AIP14C_REV2");
    }

    function createTransaction(
        address provider,
        address requester,
        uint256 amount,
        uint256 deadline,
        uint256 disputeWindow,
        bytes32 serviceHash,
        bytes32 agreementHash,
        uint256 agentId,
        uint256 requesterAgentId
    ) external whenNotPaused returns (bytes32 transactionId) {
        transactionId = _create(
            Order(
                provider, requester, amount, deadline, disputeWindow, serviceHash, agentId, requesterAgentId
            )
        );
        _commitments[transactionId].agreementHash = agreementHash;
        emit TransactionCreated(
            transactionId,
            requester,
            provider,
            amount,
            serviceHash,
            deadline,
            block.timestamp,
            agentId,
            agreementHash
        );
    }

    /// 23 words: both structs are static, so that they lie side by side.
    function getTransaction(bytes32 transactionId) external view returns (TransactionView memory) {
        return TransactionView(_find(transactionId), _commitments[transactionId]);
    }

    /// Approving a vault again calls its revocation off.
    function approveEscrowVault(address vault, bool approved) public override {
        require(msg.sender != admin || approved, "Revocation must be scheduled");
        super.approveEscrowVault(vault, approved);
        if (pendingVaultRevocationAt[vault] == 0) return;
        delete pendingVaultRevocationAt[vault];
        emit EscrowVaultRevocationCancelled(vault);
    }

    function scheduleEscrowVaultRevocation(address vault) external onlyAdmin {
        require(approvedEscrowVaults[vault], "Vault not approved");
        require(pendingVaultRevocationAt[vault] == 0, "Revocation already scheduled");
        uint256 executeAfter = block.timestamp + VAULT_REVOCATION_DELAY;
        pendingVaultRevocationAt[vault] = executeAfter;
        emit EscrowVaultRevocationScheduled(vault, executeAfter);
    }

    /// Anybody may.
    function executeEscrowVaultRevocation(address vault) external {
        uint256 executeAfter = pendingVaultRevocationAt[vault];
        require(executeAfter != 0, "No scheduled revocation");
        require(block.timestamp >= executeAfter, "Timelock not expired");
        delete pendingVaultRevocationAt[vault];
        approvedEscrowVaults[vault] = false;
        emit EscrowVaultApproved(vault, false);
    }

    function _delivery(Transaction storage transaction, bytes calldata proof)
        internal
        override
        returns (uint256 window)
    {
        require(proof.length == 64, "Delivery proof must be (window,resultHash)");
        bytes32 resultHash;
        (window, resultHash) = abi.decode(proof, (uint256, bytes32));
        _checkDisputeWindow(window);
        require(resultHash != bytes32(0), "resultHash required");
        _commitments[transaction.transactionId].resultHash = resultHash;
    }

    function _cancelUnresolved(Transaction storage) internal pure override {
        revert(_unresolved());
    }

    function _cannotLink() internal pure override returns (string memory) {
        return "Invalid state for linkEscrow";
    }

    function _cannotCancel() internal pure override returns (string memory) {
        return "No cancel after work started";
    }

    function _unresolved() internal pure override returns (string memory) {
        return "Explicit resolution required";
    }
}
