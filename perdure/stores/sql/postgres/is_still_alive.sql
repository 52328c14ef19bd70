-- Its lease cannot be renewed until who asks has said what he makes of the answer.
SELECT until > clock_timestamp() FROM nodes WHERE node = %(node)s FOR SHARE
