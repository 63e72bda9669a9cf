// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

/// A kernel of the generation until May 2026, as far as a client meets it before it knows: six
/// arguments to create, fifteen fields to read, no dispute bonds.
contract OldKernel {
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
        uint256 disputeWindow;
        bytes32 metadata;
        uint16 platformFeeBpsLocked;
    }

    address public admin = msg.sender;
    uint16 public platformFeeBps = 100;
    uint16 public requesterPenaltyBps = 500;
    bool public paused;
    mapping(address requester => uint256) public requesterNonces;
    mapping(bytes32 transactionId => Transaction) private _transactions;

    event TransactionCreated(
        bytes32 indexed transactionId,
        address indexed requester,
        address indexed provider,
        uint256 amount,
        bytes32 serviceHash,
        uint256 deadline,
        uint256 timestamp
    );

    function createTransaction(
        address provider,
        address requester,
        uint256 amount,
        uint256 deadline,
        uint256 disputeWindow,
        bytes32 serviceHash
    ) external returns (bytes32 transactionId) {
        require(msg.sender == requester, "Requester mismatch");
        uint256 nonce = requesterNonces[requester]++;
        transactionId = keccak256(abi.encodePacked(requester, provider, amount, serviceHash, nonce));
        Transaction storage transaction = _transactions[transactionId];
        transaction.transactionId = transactionId;
        transaction.requester = requester;
        transaction.provider = provider;
        transaction.amount = amount;
        transaction.createdAt = block.timestamp;
        transaction.updatedAt = block.timestamp;
        transaction.deadline = deadline;
        transaction.serviceHash = serviceHash;
        transaction.disputeWindow = disputeWindow;
        transaction.platformFeeBpsLocked = platformFeeBps;
        emit TransactionCreated(
            transactionId, requester, provider, amount, serviceHash, deadline, block.timestamp
        );
    }

    function getTransaction(bytes32 transactionId) external view returns (Transaction memory transaction) {
        transaction = _transactions[transactionId];
        require(transaction.createdAt != 0, "Tx missing");
    }
}
