# frozen_string_literal: true

# Owns a service for each test, for tests that look at everything that is stored.
require_relative "service"

module OwnService
  include Shared

  def setup
    super
    @service = Shared::ES::TestService.new(environment: Shared.settings).start
  end

  attr_reader :service

  def teardown
    super
    service.close
  end
end
