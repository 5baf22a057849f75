-- Last in order: a generator that finds this version knows that everything before is there too.

-- Not immutable: a constant would be folded into a prepared plan, which answers any role.
create or replace function public.generation_schema_version() returns integer
language sql stable set search_path = ''
as $$ select 6 $$;

revoke execute on function public.generation_schema_version() from public, anon, authenticated;
grant execute on function public.generation_schema_version() to service_role;

notify pgrst, 'reload schema';
