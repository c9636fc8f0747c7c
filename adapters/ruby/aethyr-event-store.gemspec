# frozen_string_literal: true

# Owns what the gem is made of.
require_relative "lib/aethyr/event_store/version"

Gem::Specification.new do |gem|
  gem.name = "aethyr-event-store"
  gem.version = Aethyr::EventStore::VERSION
  gem.summary = "Client of Aethyr Event Store, and its adapter for Sequent and for the MUD server Aethyr"
  gem.description = "Appends and loads the events of a game world over gRPC. Takes the place of the event store of " \
                    "Sequent 8.2 and 9 and of Aethyr, and carries GDBM worlds over."
  gem.authors = ["Aethyr Event Store"]
  gem.homepage = "https://github.com/aethyr/event-store"
  gem.licenses = %w[MIT Apache-2.0]
  gem.required_ruby_version = ">= 3.1"
  gem.files = Dir["lib/**/*.rb", "exe/*", "examples/*.rb", "README.md"]
  gem.bindir = "exe"
  gem.executables = %w[aethyr-event-store-migrate]
  gem.add_dependency "google-protobuf", ">= 3.21", "< 5"
  gem.add_dependency "googleapis-common-protos-types", ">= 1.0.5"
  gem.add_dependency "grpc", ">= 1.50", "< 2"
  gem.metadata = { "rubygems_mfa_required" => "true" }
end
