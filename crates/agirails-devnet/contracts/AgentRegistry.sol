// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";

/// Who offers what, and how their settled work went (AIP-7). Agents register themselves, and
/// nobody ever leaves.
contract AgentRegistry {
    struct ServiceDescriptor {
        bytes32 serviceTypeHash;
        string serviceType;
        string schemaURI;
        uint256 minPrice;
        uint256 maxPrice;
        uint256 avgCompletionTime;
        string metadataCID;
    }

    struct AgentProfile {
        address agentAddress;
        string did;
        string endpoint;
        bytes32[] serviceTypes;
        uint256 stakedAmount;
        uint256 reputationScore;
        uint256 totalTransactions;
        uint256 disputedTransactions;
        uint256 totalVolumeUSDC;
        uint256 registeredAt;
        uint256 updatedAt;
        bool isActive;
        bytes32 configHash;
        string configCID;
        bool listed;
    }

    uint256 public constant MAX_SERVICE_DESCRIPTORS = 100;
    uint256 public constant MAX_REGISTERED_AGENTS = 10_000;
    uint256 public constant MAX_QUERY_AGENTS = 1_000;
    uint256 public constant MAX_SERVICE_TYPE_LENGTH = 64;
    uint256 public constant MAX_ENDPOINT_LENGTH = 256;

    address public immutable actpKernel;

    mapping(bytes32 transactionId => bool) public processedTransactions;
    mapping(address agent => AgentProfile) private _agents;
    mapping(address agent => ServiceDescriptor[]) private _services;
    mapping(address agent => mapping(bytes32 serviceTypeHash => bool)) private _supports;
    mapping(string did => address) private _agentOf;
    address[] private _registered;

    event AgentRegistered(address indexed agentAddress, string did, string endpoint, uint256 timestamp);
    event EndpointUpdated(address indexed agentAddress, string oldEndpoint, string newEndpoint, uint256 timestamp);
    event ServiceTypeUpdated(
        address indexed agentAddress, bytes32 indexed serviceTypeHash, bool added, uint256 timestamp
    );
    event ReputationUpdated(
        address indexed agentAddress, uint256 oldScore, uint256 newScore, bytes32 indexed txId, uint256 timestamp
    );
    event ActiveStatusUpdated(address indexed agentAddress, bool isActive, uint256 timestamp);
    event TransactionProcessed(bytes32 indexed txId, address indexed agentAddress);

    modifier onlyRegistered() {
        require(_agents[msg.sender].registeredAt != 0, "Not registered");
        _;
    }

    constructor(address kernel) {
        require(kernel != address(0), "Kernel addr required");
        actpKernel = kernel;
    }

    /// Registers the sender, active and without a reputation.
    function registerAgent(string calldata endpoint, ServiceDescriptor[] calldata services) external {
        AgentProfile storage agent = _agents[msg.sender];
        require(agent.registeredAt == 0, "Already registered");
        _checkEndpoint(endpoint);
        require(services.length != 0, "At least one service required");
        require(services.length <= MAX_SERVICE_DESCRIPTORS, "Too many services");
        require(_registered.length < MAX_REGISTERED_AGENTS, "Registry full");
        for (uint256 i = 0; i < services.length; ++i) {
            bytes32 hash = _serviceTypeHash(services[i].serviceType);
            require(hash == services[i].serviceTypeHash, "Hash mismatch");
            agent.serviceTypes.push(hash);
            _services[msg.sender].push(services[i]);
            _supports[msg.sender][hash] = true;
        }
        string memory did =
            string.concat("did:ethr:", Strings.toString(block.chainid), ":", Strings.toHexString(msg.sender));
        agent.agentAddress = msg.sender;
        agent.did = did;
        agent.endpoint = endpoint;
        agent.registeredAt = block.timestamp;
        agent.updatedAt = block.timestamp;
        agent.isActive = true;
        _agentOf[did] = msg.sender;
        _registered.push(msg.sender);
        emit AgentRegistered(msg.sender, did, endpoint, block.timestamp);
    }

    function updateEndpoint(string calldata newEndpoint) external onlyRegistered {
        _checkEndpoint(newEndpoint);
        AgentProfile storage agent = _agents[msg.sender];
        emit EndpointUpdated(msg.sender, agent.endpoint, newEndpoint, block.timestamp);
        agent.endpoint = newEndpoint;
        agent.updatedAt = block.timestamp;
    }

    /// Adds a service with nothing but its type.
    function addServiceType(string calldata serviceType) external onlyRegistered {
        require(_services[msg.sender].length < MAX_SERVICE_DESCRIPTORS, "Service limit reached");
        bytes32 hash = _serviceTypeHash(serviceType);
        require(!_supports[msg.sender][hash], "Service already added");
        AgentProfile storage agent = _agents[msg.sender];
        agent.serviceTypes.push(hash);
        agent.updatedAt = block.timestamp;
        _services[msg.sender].push(ServiceDescriptor(hash, serviceType, "", 0, 0, 0, ""));
        _supports[msg.sender][hash] = true;
        emit ServiceTypeUpdated(msg.sender, hash, true, block.timestamp);
    }

    /// Removes a service; the last one takes its place.
    function removeServiceType(bytes32 serviceTypeHash) external onlyRegistered {
        require(_supports[msg.sender][serviceTypeHash], "Service not found");
        AgentProfile storage agent = _agents[msg.sender];
        ServiceDescriptor[] storage services = _services[msg.sender];
        uint256 last = services.length - 1;
        for (uint256 i = 0; i <= last; ++i) {
            if (services[i].serviceTypeHash == serviceTypeHash) {
                services[i] = services[last];
                services.pop();
                agent.serviceTypes[i] = agent.serviceTypes[last];
                agent.serviceTypes.pop();
                break;
            }
        }
        _supports[msg.sender][serviceTypeHash] = false;
        agent.updatedAt = block.timestamp;
        emit ServiceTypeUpdated(msg.sender, serviceTypeHash, false, block.timestamp);
    }

    /// Shows an agent in queries, or hides it.
    function setActiveStatus(bool isActive) external onlyRegistered {
        AgentProfile storage agent = _agents[msg.sender];
        agent.isActive = isActive;
        agent.updatedAt = block.timestamp;
        emit ActiveStatusUpdated(msg.sender, isActive, block.timestamp);
    }

    /// Counts a settlement for its provider, once, with its whole amount.
    function updateReputationOnSettlement(address agentAddress, bytes32 txId, uint256 txAmount, bool wasDisputed)
        external
    {
        require(msg.sender == actpKernel, "Only ACTPKernel");
        AgentProfile storage agent = _agents[agentAddress];
        require(agent.registeredAt != 0, "Agent not registered");
        require(!processedTransactions[txId], "Transaction already processed");
        processedTransactions[txId] = true;

        agent.totalTransactions += 1;
        agent.totalVolumeUSDC += txAmount;
        if (wasDisputed) agent.disputedTransactions += 1;
        uint256 oldScore = agent.reputationScore;
        uint256 newScore =
            _reputation(agent.totalTransactions, agent.disputedTransactions, agent.totalVolumeUSDC);
        agent.reputationScore = newScore;
        agent.updatedAt = block.timestamp;
        emit ReputationUpdated(agentAddress, oldScore, newScore, txId, block.timestamp);
        emit TransactionProcessed(txId, agentAddress);
    }

    /// All zeros for an address that never registered.
    function getAgent(address agentAddress) external view returns (AgentProfile memory) {
        return _agents[agentAddress];
    }

    function getAgentByDID(string calldata did) external view returns (AgentProfile memory) {
        require(bytes(did).length >= 20 && bytes(did).length <= 100, "Invalid DID length");
        return _agents[_agentOf[did]];
    }

    function getServiceDescriptors(address agentAddress) external view returns (ServiceDescriptor[] memory) {
        return _services[agentAddress];
    }

    function supportsService(address agentAddress, bytes32 serviceTypeHash) external view returns (bool) {
        return _supports[agentAddress][serviceTypeHash];
    }

    /// Active agents in the order of their registration; those that do not match are not counted by
    /// `offset`.
    function queryAgentsByService(bytes32 serviceTypeHash, uint256 minReputation, uint256 offset, uint256 limit)
        external
        view
        returns (address[] memory found)
    {
        require(limit >= 1 && limit <= 100, "Limit must be 1-100");
        require(_registered.length <= MAX_QUERY_AGENTS, "Too many agents - use off-chain indexer");
        found = new address[](limit);
        uint256 count = 0;
        for (uint256 i = 0; i < _registered.length && count < limit; ++i) {
            address candidate = _registered[i];
            AgentProfile storage agent = _agents[candidate];
            if (!_supports[candidate][serviceTypeHash] || !agent.isActive) continue;
            if (agent.reputationScore < minReputation) continue;
            if (offset != 0) --offset;
            else found[count++] = candidate;
        }
        // Shortened in place: the length is the array's first word.
        assembly ("memory-safe") {
            mstore(found, count)
        }
    }

    function _checkEndpoint(string calldata endpoint) private pure {
        require(bytes(endpoint).length != 0, "Empty endpoint");
        require(bytes(endpoint).length <= MAX_ENDPOINT_LENGTH, "Endpoint too long");
    }

    /// The first fault that a reader meets is the one that is named; the ends are looked at last.
    function _serviceTypeHash(string calldata serviceType) private pure returns (bytes32) {
        bytes calldata text = bytes(serviceType);
        require(text.length != 0, "Empty service type");
        require(text.length <= MAX_SERVICE_TYPE_LENGTH, "Service type too long");
        bytes1 previous;
        for (uint256 i = 0; i < text.length; ++i) {
            bytes1 char = text[i];
            bool isSpace = char == " " || char == "\t" || char == "\n" || char == "\r";
            require(!isSpace, "Service type contains whitespace");
            require(char < "A" || char > "Z", "Service type must be lowercase");
            require(char != "-" || previous != "-", "Consecutive hyphens");
            bool isAllowed = (char >= "a" && char <= "z") || (char >= "0" && char <= "9") || char == "-";
            require(isAllowed, "Invalid character in service type (allowed: a-z, 0-9, hyphen)");
            previous = char;
        }
        require(text[0] != "-", "Cannot start with hyphen");
        require(previous != "-", "Cannot end with hyphen");
        return keccak256(text);
    }

    /// Seven tenths the rate of undisputed transactions, three tenths a step for the volume.
    function _reputation(uint256 total, uint256 disputed, uint256 volume) private pure returns (uint256) {
        uint256 success = total == 0 ? 10_000 : (total - disputed) * 10_000 / total;
        uint256 dollars = volume / 1e6;
        uint256 step = 0;
        if (dollars >= 100_000) step = 10_000;
        else if (dollars >= 10_000) step = 7_500;
        else if (dollars >= 1_000) step = 5_000;
        else if (dollars >= 100) step = 2_500;
        return success * 7_000 / 10_000 + step * 3_000 / 10_000;
    }
}
