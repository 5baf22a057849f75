# The studio page's tests. Included by the Makefile.

BROWSER = deploy/local/browser

.PHONY: test-browser lock-studio

$(BROWSER)/node_modules/.installed: $(BROWSER)/package-lock.json
	cd $(BROWSER) && npm ci --silent
	@touch $@

test-browser: setup model next-app $(BROWSER)/node_modules/.installed ## Drive the studio page and an app of Next.js in Chromium; screenshots in .local/browser
	@test -x "$${CHROMIUM:-/usr/bin/chromium}" || { echo "There is no Chromium here; on Debian: apt-get install chromium"; exit 1; }
	cd $(BROWSER) && npm test --silent
	$(PYTEST) -n 0 tests/contract/check_browser.py

lock-studio: setup ## Compile the lock of the studio page's image again
	$(COMPILE) -c requirements-dev.lock deploy/local/requirements-studio.in services/sizing-api/pyproject.toml -o deploy/local/requirements-studio.lock
