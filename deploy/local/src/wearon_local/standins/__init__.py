"""Stand-ins for other people's servers: Supabase's gateway and Storage, and OpenAI's image API."""
