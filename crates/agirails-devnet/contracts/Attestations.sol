// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.34;

/// Schemas of attestations, with the interface of the Ethereum Attestation Service.
contract SchemaRegistry {
    struct SchemaRecord {
        bytes32 uid;
        address resolver;
        bool revocable;
        string schema;
    }

    mapping(bytes32 uid => SchemaRecord) private _schemas;

    event Registered(bytes32 indexed uid, address indexed registerer, SchemaRecord schema);

    error AlreadyExists();

    function register(string calldata schema, address resolver, bool revocable) external returns (bytes32 uid) {
        uid = keccak256(abi.encodePacked(schema, resolver, revocable));
        if (_schemas[uid].uid != bytes32(0)) revert AlreadyExists();
        SchemaRecord memory record = SchemaRecord(uid, resolver, revocable, schema);
        _schemas[uid] = record;
        emit Registered(uid, msg.sender, record);
    }

    /// All zeros for an unknown schema.
    function getSchema(bytes32 uid) external view returns (SchemaRecord memory) {
        return _schemas[uid];
    }
}

/// Attestations, with the interface of the Ethereum Attestation Service as far as an SDK needs it:
/// one at a time, on chain, without resolvers, delegation or money.
contract EAS {
    struct AttestationRequestData {
        address recipient;
        uint64 expirationTime;
        bool revocable;
        bytes32 refUID;
        bytes data;
        uint256 value;
    }

    struct AttestationRequest {
        bytes32 schema;
        AttestationRequestData data;
    }

    struct RevocationRequestData {
        bytes32 uid;
        uint256 value;
    }

    struct RevocationRequest {
        bytes32 schema;
        RevocationRequestData data;
    }

    struct Attestation {
        bytes32 uid;
        bytes32 schema;
        uint64 time;
        uint64 expirationTime;
        uint64 revocationTime;
        bytes32 refUID;
        address recipient;
        address attester;
        bool revocable;
        bytes data;
    }

    SchemaRegistry private immutable _schemas;
    mapping(bytes32 uid => Attestation) private _attestations;

    event Attested(address indexed recipient, address indexed attester, bytes32 uid, bytes32 indexed schemaUID);
    event Revoked(address indexed recipient, address indexed attester, bytes32 uid, bytes32 indexed schemaUID);

    error AccessDenied();
    error AlreadyRevoked();
    error InvalidExpirationTime();
    error InvalidSchema();
    error Irrevocable();
    error NotFound();
    error NotPayable();

    constructor(SchemaRegistry schemas) {
        _schemas = schemas;
    }

    function attest(AttestationRequest calldata request) external payable returns (bytes32 uid) {
        AttestationRequestData calldata data = request.data;
        SchemaRegistry.SchemaRecord memory schema = _schemas.getSchema(request.schema);
        if (schema.uid == bytes32(0)) revert InvalidSchema();
        if (data.expirationTime != 0 && data.expirationTime <= block.timestamp) revert InvalidExpirationTime();
        if (data.revocable && !schema.revocable) revert Irrevocable();
        if (data.refUID != bytes32(0) && !isAttestationValid(data.refUID)) revert NotFound();
        if (data.value != 0 || msg.value != 0) revert NotPayable();

        Attestation memory attestation = Attestation({
            uid: bytes32(0),
            schema: request.schema,
            time: uint64(block.timestamp),
            expirationTime: data.expirationTime,
            revocationTime: 0,
            refUID: data.refUID,
            recipient: data.recipient,
            attester: msg.sender,
            revocable: data.revocable,
            data: data.data
        });
        // Two equal attestations of one block differ in the bump alone.
        uint32 bump = 0;
        do {
            uid = _uid(attestation, bump++);
        } while (isAttestationValid(uid));
        attestation.uid = uid;
        _attestations[uid] = attestation;
        emit Attested(data.recipient, msg.sender, uid, request.schema);
    }

    function revoke(RevocationRequest calldata request) external payable {
        Attestation storage attestation = _attestations[request.data.uid];
        if (attestation.uid == bytes32(0)) revert NotFound();
        if (attestation.schema != request.schema) revert InvalidSchema();
        if (attestation.attester != msg.sender) revert AccessDenied();
        if (!attestation.revocable) revert Irrevocable();
        if (attestation.revocationTime != 0) revert AlreadyRevoked();
        if (request.data.value != 0 || msg.value != 0) revert NotPayable();
        attestation.revocationTime = uint64(block.timestamp);
        emit Revoked(attestation.recipient, msg.sender, attestation.uid, request.schema);
    }

    /// All zeros for an unknown attestation.
    function getAttestation(bytes32 uid) external view returns (Attestation memory) {
        return _attestations[uid];
    }

    /// Whether the attestation exists; expired and revoked ones do.
    function isAttestationValid(bytes32 uid) public view returns (bool) {
        return _attestations[uid].uid != bytes32(0);
    }

    function getSchemaRegistry() external view returns (SchemaRegistry) {
        return _schemas;
    }

    function _uid(Attestation memory attestation, uint32 bump) private pure returns (bytes32) {
        return keccak256(
            abi.encodePacked(
                attestation.schema,
                attestation.recipient,
                attestation.attester,
                attestation.time,
                attestation.expirationTime,
                attestation.revocable,
                attestation.refUID,
                attestation.data,
                bump
            )
        );
    }
}
