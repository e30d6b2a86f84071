# Sourced once by the MySQL image, when its data folder is new: the outbox table, and the bridge's user with its password.
{
  cat /sql/outbox.sql
  sed "s/<password>/$(cat /run/secrets/mysql-password)/" /sql/grants.sql
} | docker_process_sql
