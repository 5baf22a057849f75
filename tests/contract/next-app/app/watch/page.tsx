"use client";

import { createClient } from "@supabase/supabase-js";
import { watchGeneration } from "@wearon/contracts";
import { useEffect, useState } from "react";

const NEVER_MS = 3_600_000; // whatever is seen after the first look came through Realtime

/** Lists the states of a session as they come; #url, key, token and session of whom it is. */
export default function Page() {
  const [seen, setSeen] = useState<string[]>([]);

  useEffect(() => {
    const told = new URLSearchParams(location.hash.slice(1));
    const supabase = createClient(told.get("url")!, told.get("key")!, { accessToken: async () => told.get("token") });
    const left = new AbortController();
    const options = { channel: "b2c", sessionId: told.get("session")!, signal: left.signal } as const;
    const follow = async () => {
      for await (const update of watchGeneration(supabase, { ...options, pollMs: NEVER_MS, checkMs: NEVER_MS })) {
        setSeen((before) => [...before, update.status]);
      }
      setSeen((before) => [...before, "end"]);
    };
    follow().catch((error: unknown) => setSeen((before) => [...before, String(error)]));
    return () => left.abort();
  }, []);

  return (
    <ol>
      {seen.map((status, number) => (
        <li key={number}>{status}</li>
      ))}
    </ol>
  );
}
