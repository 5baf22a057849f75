// What is needed of a Supabase client; one of @supabase/supabase-js fits, whatever database type it was given.
// Its own types follow that database, so what is called through them is named here, not typed.

/** A client that reads tables. */
export interface TableReader {
  from(table: never): unknown;
}

/** A client that calls functions of the database. */
export interface FunctionCaller {
  rpc(name: never, parameters: never): unknown;
}

interface QueryAnswer {
  data: unknown;
  error: { message: string; code?: string } | null;
  /** HTTP status, 0 if there was no answer. */
  status: number;
}

/** Supabase refused, or could not be reached. */
export class SupabaseError extends Error {
  override readonly name = "SupabaseError";

  constructor(
    message: string,
    /** PostgREST's or PostgreSQL's code, empty if there is none. */
    readonly code: string,
    /** HTTP status, 0 if there was no answer. */
    readonly status: number,
  ) {
    super(message);
  }

  /** Whether the same request may work later. */
  get retryable(): boolean {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/** The row of `table` with this id; null if there is none that this client may see. @throws {SupabaseError} */
export async function readRow(supabase: TableReader, table: string, columns: string, id: string): Promise<unknown> {
  const query = supabase.from(table as never) as {
    select(columns: string): { eq(column: string, value: string): { maybeSingle(): PromiseLike<QueryAnswer> } };
  };
  return dataOf(await query.select(columns).eq("id", id).maybeSingle());
}

/** What a function of the database answers. @throws {SupabaseError} */
export async function call(supabase: FunctionCaller, name: string, parameters: object): Promise<unknown> {
  return dataOf(await (supabase.rpc(name as never, parameters as never) as PromiseLike<QueryAnswer>));
}

function dataOf({ data, error, status }: QueryAnswer): unknown {
  if (error !== null) {
    throw new SupabaseError(error.message, error.code ?? "", status);
  }
  return data;
}
