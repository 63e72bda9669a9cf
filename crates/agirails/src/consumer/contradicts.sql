-- Whether the call's last answer was not what its receipt says, or its receipt not to be read.
ALTER TABLE purchases ADD COLUMN contradicted INTEGER NOT NULL DEFAULT 0;
