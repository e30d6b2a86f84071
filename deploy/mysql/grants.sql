-- The bridge's user in MySQL, and nothing more than it needs: what `outbox-bridge init --print grants` prints for the example
-- configuration. Put the password of source.password_file in place, and one SELECT for each outbox table.
-- A table with a retention needs SELECT, DELETE.

CREATE USER IF NOT EXISTS 'bridge'@'%' IDENTIFIED BY '<password>';
GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'bridge'@'%';
GRANT SELECT ON `shop`.`outbox` TO 'bridge'@'%';
