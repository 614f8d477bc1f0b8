pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}
dependencyResolutionManagement {
    repositories {
        google()
        mavenCentral()
        // What `python -m compile ... --package aar` left.
        maven { url = uri(providers.gradleProperty("artifact").get() + "/maven") }
    }
}
rootProject.name = "ask"
include(":app")
