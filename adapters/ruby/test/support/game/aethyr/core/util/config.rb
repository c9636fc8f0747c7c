# frozen_string_literal: true

require_relative "../../../../aethyr/aethyr/core/util/config"
