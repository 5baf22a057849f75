-- Local stand-in for the part of Supabase Realtime that reads the write-ahead log: each update of a published
-- session table is notified, and the local gateway hands it on. Never apply this to a real project.

create or replace function wearon_local_notify() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
  perform pg_notify('wearon_local_realtime', json_build_object('table', tg_table_name, 'id', new.id)::text);
  return null;
end
$$;
revoke execute on function wearon_local_notify() from public, anon, authenticated;

create or replace trigger wearon_local_realtime after update on generation_sessions
  for each row execute function wearon_local_notify();
create or replace trigger wearon_local_realtime after update on store_generation_sessions
  for each row execute function wearon_local_notify();
