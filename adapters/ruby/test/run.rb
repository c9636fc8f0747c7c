# frozen_string_literal: true

# Owns the run of all tests: `ruby test/run.rb [-n NAME]`. AETHYR_EVENT_STORE names the program of the
# service.
require_relative "support/service"
Dir[File.join(__dir__, "test_*.rb")].sort.each { |file| require file }
# The service is stopped by at_exit, which has to run after minitest.
Shared.service
exit(Minitest.run(ARGV) ? 0 : 1)
