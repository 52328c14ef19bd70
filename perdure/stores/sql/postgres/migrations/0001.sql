-- oldest: 1
-- Every table is keyed by the session's full name (its project in front, see ProjectStores), so that
-- it can be the distribution key. "C": names sort by their bytes, on every server alike.
CREATE TABLE sessions (
    session text COLLATE "C" NOT NULL PRIMARY KEY,
    born bigint NOT NULL, -- which life of that name; negative until its first claim or fork
    epoch bigint NOT NULL, -- negative until its first claim or fork
    owner text COLLATE "C",
    seq bigint NOT NULL DEFAULT 0,
    hash bytea NOT NULL,
    origin text COLLATE "C", -- of a fork: in which life of which name event `base` lies
    origin_born bigint,
    base bigint NOT NULL DEFAULT 0,
    busy boolean NOT NULL DEFAULT false, -- the row says `running`, and it is nobody's subagent
    child boolean NOT NULL DEFAULT false, -- a subagent's: its parent's owner drives it
    wake_us bigint NOT NULL DEFAULT 0,
    updated_us bigint NOT NULL DEFAULT 0,
    row_data bytea
) WITH (fillfactor = 60); -- room for new versions of a line on its own page, which need no index
CREATE INDEX sessions_owner ON sessions (owner) WHERE owner IS NOT NULL;
CREATE INDEX sessions_busy ON sessions (session) WHERE busy;
CREATE INDEX sessions_wake ON sessions (wake_us, session) WHERE wake_us > 0;
CREATE INDEX sessions_origin ON sessions (origin, origin_born) WHERE origin IS NOT NULL;

-- A life that is over, whose first events are kept because forks read them.
CREATE TABLE graves (
    session text COLLATE "C" NOT NULL,
    born bigint NOT NULL,
    kept bigint NOT NULL,
    origin text COLLATE "C",
    origin_born bigint,
    base bigint NOT NULL,
    PRIMARY KEY (session, born)
);
CREATE INDEX graves_origin ON graves (origin, origin_born) WHERE origin IS NOT NULL;

CREATE TABLE events (
    session text COLLATE "C" NOT NULL,
    born bigint NOT NULL,
    seq bigint NOT NULL,
    type text NOT NULL,
    data bytea NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (session, born, seq)
);

CREATE TABLE letters (
    session text COLLATE "C" NOT NULL,
    key bytea NOT NULL,
    digest bytea NOT NULL,
    body bytea, -- NULL once it was taken; the key is remembered
    posted bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (session, key)
);
CREATE INDEX letters_waiting ON letters (session, posted) WHERE body IS NOT NULL;

CREATE TABLE states (
    session text COLLATE "C" NOT NULL,
    born bigint NOT NULL,
    seq bigint NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (session, born)
);

CREATE TABLE errors (
    session text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    row_data bytea NOT NULL,
    PRIMARY KEY (session, fingerprint)
);

CREATE TABLE docs (
    kind bytea NOT NULL,
    name bytea NOT NULL,
    version bigint NOT NULL,
    data bytea, -- NULL: deleted; versions go on
    PRIMARY KEY (kind, name)
);

CREATE TABLE blobs (
    digest text COLLATE "C" NOT NULL PRIMARY KEY,
    data bytea NOT NULL,
    put timestamptz NOT NULL DEFAULT clock_timestamp() -- what is old and named by nobody may go
);

CREATE TABLE nodes (
    node text COLLATE "C" NOT NULL PRIMARY KEY,
    address text NOT NULL,
    version text NOT NULL,
    host text NOT NULL,
    schema_version integer NOT NULL,
    started timestamptz NOT NULL,
    seen timestamptz NOT NULL,
    until timestamptz NOT NULL,
    draining boolean NOT NULL DEFAULT false
);

-- How many groups each node has committed: the witness of a commit in doubt, and what the others
-- look at to learn that something has changed.
CREATE TABLE changes (
    node text COLLATE "C" NOT NULL PRIMARY KEY,
    version bigint NOT NULL
) WITH (fillfactor = 10);

CREATE TABLE counters (
    name text COLLATE "C" NOT NULL PRIMARY KEY,
    value bigint NOT NULL
);
INSERT INTO counters VALUES ('epochs', 0);

-- What is large is compressed already: the server's own, slow way is not to try again.
ALTER TABLE events ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE blobs ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE states ALTER COLUMN data SET STORAGE EXTERNAL
