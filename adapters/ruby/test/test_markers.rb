# frozen_string_literal: true

# Owns the tests of the JSON of Ruby values, and of names that other programs write.
require_relative "support/service"
require_relative "support/world"

class TestMarkers < Minitest::Test
  Markers = Aethyr::EventStore::Markers

  def round(value) = Markers.load(JSON.parse(JSON.generate(Markers.dump_for_world(value), max_nesting: 0),
                                             max_nesting: 0))

  def test_everything_comes_back
    deep = (1..40).inject("bottom") { |inner, _| { inner: inner } }
    values = [nil, true, 2**60, 1.5, 1e300, -Float::INFINITY, "ü", "\xFF".b, :left, { "a" => [:b] }, { 1 => 2 },
              Set[:a], Time.at(1, 5, :nsec), "\xE9".b.to_sym, { "\xE9".b => 1 }, { "__x__" => 1 }, deep]
    values.each { |value| assert round(value) == value, value.inspect }
  end

  def test_a_marker_of_somebody_else_stays_what_it_is
    [{ "__time__" => "yesterday" }, { "__float__" => "one" }, { "__integer__" => "1.5" }, { "__set__" => 3 },
     { "__json__" => "{" }, { "__binary__" => "?" }, { "__symbol__" => 3 }, { "__pairs__" => [1] },
     { "__info__" => 3 }, { "__object__" => 3 }].each do |value|
      assert_equal value, Markers.load(value)
    end
    assert_equal 1.0, Markers.load({ "__float__" => "1" })
    ["Aethyr::a b", "Aethyr::EventStore::VERSION::X", "Aethyr::"].each do |name|
      assert_equal [name, { "x" => 1 }], [Markers.load({ "__class__" => name }),
                                          Markers.load({ "__object__" => { "class" => name, "x" => 1 } })]
    end
  end

  def test_clean_texts
    { "é" => "é", "é".b => "é", "caf\xE9" => "café", "\xE9".b => "é",
      "\xE9".dup.force_encoding("ISO-8859-1") => "é" }.each do |given, wanted|
      assert_equal wanted, Markers.clean(given)
    end
  end

  def test_names_of_other_programs
    names = Aethyr::EventStore::EventCodec::EVENTS
    ["sword_found", "a b", "", "::", "Foo::bar", "Nothing::Such", "RUBY_VERSION",
     "RUBY_VERSION::X"].each do |name|
      assert_equal name, names.long(name)
      assert_raises(NameError) { names.find(name) }
    end
    assert_equal Bank::Opened, names.find("Bank::Opened")
  end
end
