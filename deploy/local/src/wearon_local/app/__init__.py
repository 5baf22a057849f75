"""The side of the Next.js app: it writes session rows, deducts credits and pushes jobs."""
