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
        maven { url = uri("../../build/mobilebert-mlm-arm64-android/maven") }
    }
}
rootProject.name = "fillmask"
include(":app")
