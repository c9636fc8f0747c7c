# frozen_string_literal: true

# Owns what the tests share: minitest, one service for all of them, ids that are used once.
$LOAD_PATH.unshift(File.expand_path("../../lib", __dir__))
require "minitest"
require "minitest/test"
require "aethyr/event_store/test_service"

module Shared
  ES = Aethyr::EventStore

  class << self
    def service = @service ||= ES::TestService.new(environment: settings).start.tap do
      at_exit { @service.close }
    end

    def settings = { "AETHYR_EVENT_SOURCING__SNAPSHOT_THRESHOLD" => "5" }
  end

  def service = Shared.service
  def client = @client ||= ES::Client.new(service.url)
  def id(name = "thing") = "#{name}-#{SecureRandom.hex(6)}"

  def teardown
    @client&.close
    super
  end

  def seconds
    began = Process.clock_gettime(Process::CLOCK_MONOTONIC)
    yield
    Process.clock_gettime(Process::CLOCK_MONOTONIC) - began
  end
end
